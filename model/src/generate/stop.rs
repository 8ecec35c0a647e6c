//! Stop strings in a stream of text.

/// Holds text back as long as it could be the beginning of a stop string.
#[derive(Debug)]
pub(super) struct StopStrings {
    stops: Vec<String>,
    held: String,
    /// Bytes of `held` that were handed out last.
    out: usize,
}

impl StopStrings {
    /// Empty strings would stop everything and are left out.
    pub(super) fn new(stops: &[String]) -> StopStrings {
        StopStrings { stops: stops.to_vec(), held: String::with_capacity(256), out: 0 }
    }

    /// Where new text is appended.
    pub(super) fn buffer(&mut self) -> &mut String {
        &mut self.held
    }

    /// The text that can be handed out, and whether a stop string follows it. Call [`StopStrings::advance`] then.
    pub(super) fn ready(&mut self) -> (&str, bool) {
        let stops = || self.stops.iter().filter(|stop| !stop.is_empty());
        let found = stops().filter_map(|stop| self.held.find(stop.as_str())).min();
        let safe = match found {
            Some(at) => at,
            None => {
                let longest = stops().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
                self.held.len().saturating_sub(longest)
            }
        };
        self.out = safe;
        (self.held.get(..safe).unwrap_or_default(), found.is_some())
    }

    /// Forgets what was handed out.
    pub(super) fn advance(&mut self) {
        self.held.drain(..self.out);
        self.out = 0;
    }

    /// What was held back.
    pub(super) fn rest(&self) -> &str {
        &self.held
    }
}

/// Length of the longest end of `text` that is the beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = (1..stop.len().min(text.len().saturating_add(1))).rev();
    lengths.into_iter().find(|&n| stop.get(..n).is_some_and(|head| text.ends_with(head))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What comes out at each piece, and whether a stop string ended it.
    fn feed(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut stream = StopStrings::new(&stops);
        let mut out = Vec::new();
        for piece in pieces {
            stream.buffer().push_str(piece);
            let (text, found) = stream.ready();
            out.push(text.to_owned());
            stream.advance();
            if found {
                return (out, true);
            }
        }
        out.push(stream.rest().to_owned());
        (out, false)
    }

    #[test]
    fn text_that_may_become_a_stop_string_is_held_back() {
        let (out, found) = feed(&["\nUser:"], &["Hi", " there\nUs", "e", "r: x"]);
        assert_eq!((out.as_slice(), found), (&["Hi", " there", "", ""].map(str::to_owned)[..], true));
        let (out, found) = feed(&["\nUser:"], &["Hi\nUse", "ful"]);
        assert_eq!((out.as_slice(), found), (&["Hi", "\nUseful", ""].map(str::to_owned)[..], false));
    }

    #[test]
    fn the_earliest_of_several_stop_strings_counts() {
        let (out, found) = feed(&["yz", "x"], &["a", "bxyz"]);
        assert_eq!((out.concat().as_str(), found), ("ab", true));
        assert_eq!(feed(&["aab"], &["a", "a", "a", "b"]).0.concat(), "a");
    }

    #[test]
    fn empty_stop_strings_and_none_hold_nothing_back() {
        assert_eq!(feed(&[""], &["a", "b"]), (vec!["a".to_owned(), "b".to_owned(), String::new()], false));
        assert_eq!(feed(&[], &["ü"]).0, ["ü", ""]);
        assert_eq!(feed(&["STOP"], &["end S"]).0, ["end ", "S"]);
    }

    proptest! {
        #[test]
        fn where_pieces_are_cut_does_not_decide_whether_it_stops(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{0,4}", 0..3),
            cuts in prop::collection::vec(0usize..24, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|&c| text.is_char_boundary(c)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|w| &text[w[0]..w[1]]).collect();
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let want = stops.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s)).min();
            let (out, found) = feed(&stops, &pieces);
            prop_assert_eq!(found, want.is_some());
            // A longer string that begins earlier may not be complete when a shorter one is.
            if let Some(at) = want {
                prop_assert!(out.concat().len() >= at && text.starts_with(&out.concat()));
            } else {
                prop_assert_eq!(out.concat(), text);
            }
        }
    }
}
