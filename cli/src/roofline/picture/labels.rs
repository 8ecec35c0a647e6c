//! Places for texts in a plot where they do not cover each other: a number goes next to its dot, or as near as there is
//! room, with a line to it.

use std::ops::Range;

/// A place in pixels.
pub type Pixel = (i32, i32);

/// Left, top, right, bottom.
type Area = [i32; 4];

/// Where a dot's number goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The middle of the text.
    pub centre: Pixel,
    /// Whether a line must show whose it is.
    pub far: bool,
    /// Where that line ends.
    pub line_end: Pixel,
}

/// What is taken.
pub struct Labels {
    inside: Area,
    taken: Vec<Area>,
}

/// Half the size of a number of three digits, and of a dot.
const HALF: Pixel = (10, 6);
const DOT: i32 = 5;
/// Height of a text, and from place to place on a line.
const HEIGHT: i32 = 14;
const STEP: i32 = 4;
/// From a dot to its number, the nearest first.
const DISTANCES: [i32; 6] = [14, 22, 32, 44, 58, 74];
/// Right, left, above, below and between, in sixteenths.
const DIRECTIONS: [Pixel; 12] = [
    (16, 0),
    (-16, 0),
    (0, -14),
    (0, 14),
    (13, -11),
    (13, 11),
    (-13, -11),
    (-13, 11),
    (7, -15),
    (7, 15),
    (-7, -15),
    (-7, 15),
];

impl Labels {
    /// Nothing yet, in a plot of this extent.
    pub fn new((x, y): (Range<i32>, Range<i32>)) -> Labels {
        Labels { inside: [x.start, y.start, x.end, y.end], taken: Vec::new() }
    }

    /// Keeps a dot free.
    pub fn take_dot(&mut self, (x, y): Pixel) {
        self.taken.push(around((x, y), (DOT, DOT)));
    }

    /// Keeps a text free whose lower right corner is there.
    pub fn take_left_of(&mut self, (x, y): Pixel, text: &str) {
        self.taken.push([x.saturating_sub(width(text)), y.saturating_sub(HEIGHT), x, y]);
    }

    /// Keeps a straight line free.
    pub fn take_line(&mut self, ends: [Pixel; 2]) {
        self.taken.extend(along(ends).map(|at| around(at, (STEP / 2, 2))));
    }

    /// The lower left corner of a text that names what ends at `end`, above it.
    pub fn above(&mut self, (x, y): Pixel, text: &str) -> Pixel {
        let width = width(text);
        let lefts = [x.saturating_sub(width), x, x.saturating_sub(width / 2)];
        let bottoms = (0..4).map(|row: i32| y.saturating_sub(4).saturating_sub(row.saturating_mul(HEIGHT)));
        let area =
            |(left, bottom): Pixel| [left, bottom.saturating_sub(HEIGHT), left.saturating_add(width), bottom];
        let mut places = bottoms.flat_map(|bottom| lefts.map(|left| (left, bottom)));
        let place = places.find(|&at| self.is_free(&area(at))).unwrap_or((x, y));
        self.taken.push(area(place));
        place
    }

    /// Where the number of a dot goes.
    pub fn number(&mut self, dot: Pixel) -> Place {
        let place = |distance: i32, (x, y): Pixel| {
            let by = |part: i32| part.saturating_mul(distance) / 16;
            let centre = (dot.0.saturating_add(by(x)), dot.1.saturating_add(by(y)));
            let back = |part: i32| part.saturating_mul(distance.saturating_sub(9)) / 16;
            let line_end = (dot.0.saturating_add(back(x)), dot.1.saturating_add(back(y)));
            Place { centre, far: distance > DISTANCES[0], line_end }
        };
        let all = DISTANCES.iter().flat_map(|&far| DIRECTIONS.map(|direction| place(far, direction)));
        let free = all.into_iter().find(|place| self.is_free(&around(place.centre, HALF)));
        let found = free.unwrap_or_else(|| place(DISTANCES[0], DIRECTIONS[0]));
        self.taken.push(around(found.centre, HALF));
        found
    }

    fn is_free(&self, area: &Area) -> bool {
        let [left, top, right, bottom] = self.inside;
        let inside = area[0] >= left && area[1] >= top && area[2] <= right && area[3] <= bottom;
        inside && self.taken.iter().all(|taken| !overlap(taken, area))
    }
}

/// Places on a line, a few pixels from one another.
fn along([from, to]: [Pixel; 2]) -> impl Iterator<Item = Pixel> {
    let (dx, dy) = (to.0.saturating_sub(from.0), to.1.saturating_sub(from.1));
    let steps = (dx.saturating_abs().max(dy.saturating_abs()) / STEP).max(1);
    (0..=steps).map(move |i| {
        let part = |d: i32| d.saturating_mul(i) / steps;
        (from.0.saturating_add(part(dx)), from.1.saturating_add(part(dy)))
    })
}

fn around((x, y): Pixel, (half_width, half_height): Pixel) -> Area {
    [
        x.saturating_sub(half_width),
        y.saturating_sub(half_height),
        x.saturating_add(half_width),
        y.saturating_add(half_height),
    ]
}

fn overlap(a: &Area, b: &Area) -> bool {
    a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]
}

/// About as wide as a text of 12 pixels is.
fn width(text: &str) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or(i32::MAX).saturating_mul(13) / 2
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn numbers_of_dots_at_one_place_do_not_cover_each_other() {
        let mut labels = Labels::new((0..400, 0..400));
        labels.take_dot((200, 200));
        let places: Vec<Place> = (0..24).map(|_| labels.number((200, 200))).collect();
        for (i, a) in places.iter().enumerate() {
            for b in places.iter().skip(i + 1) {
                assert!(!overlap(&around(a.centre, HALF), &around(b.centre, HALF)), "{a:?} {b:?}");
            }
        }
        assert!(!places[0].far && places[23].far);
    }

    #[test]
    fn names_above_ends_that_are_close_to_each_other_do_not_cover_each_other() {
        let mut labels = Labels::new((0..400, 0..400));
        let text = "L2 100 GB/s";
        let places: Vec<Pixel> = (0..5).map(|i| labels.above((200 + 4 * i, 100), text)).collect();
        for (i, a) in places.iter().enumerate() {
            assert!(a.1 < 100 && a.1 > 40, "{a:?}");
            for b in places.iter().skip(i + 1) {
                assert!((a.0 - b.0).abs() >= width(text) || (a.1 - b.1).abs() >= HEIGHT, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn numbers_stay_in_the_plot() {
        let mut labels = Labels::new((0..100, 0..100));
        labels.take_dot((99, 1));
        let Place { centre, .. } = labels.number((99, 1));
        assert!(centre.0 + HALF.0 <= 100 && centre.1 - HALF.1 >= 0, "{centre:?}");
    }
}
