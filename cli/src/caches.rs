//! The caches between a core and memory, as the system tells.

use std::path::Path;

/// What one cache is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// 1 is next to the core.
    pub level: String,
    /// `Data`, `Instruction` or `Unified`.
    pub kind: String,
    /// As the system writes it, e.g. `1024K`.
    pub size: String,
    /// The CPUs that share it, e.g. `0-3`.
    pub shared: String,
}

/// The caches of the first CPU, nearest first; none where the system does not tell.
pub fn caches() -> Vec<Cache> {
    let cache = |i: usize| {
        let folder = format!("/sys/devices/system/cpu/cpu0/cache/index{i}");
        let field = |name: &str| read(&Path::new(&folder).join(name));
        let text = |name: &str| field(name).unwrap_or_default();
        let size = field("size")?;
        Some(Cache { level: text("level"), kind: text("type"), size, shared: text("shared_cpu_list") })
    };
    (0..8).filter_map(cache).collect()
}

/// What a file of the system says, without the line's end.
pub fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

impl Cache {
    /// Its size; 0 if that is no size.
    pub fn bytes(&self) -> usize {
        let (digits, unit) = match self.size.strip_suffix(['K', 'M', 'G']) {
            Some(digits) => (digits, self.size.chars().next_back()),
            None => (self.size.as_str(), None),
        };
        let unit = match unit {
            Some('K') => 1 << 10,
            Some('M') => 1 << 20,
            Some('G') => 1 << 30,
            _ => 1,
        };
        digits.parse::<usize>().unwrap_or(0).saturating_mul(unit)
    }
}

/// Where memory may lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A core's first cache.
    L1,
    /// A core's second cache.
    L2,
    /// What cores share.
    L3,
    /// No cache holds it.
    Dram,
}

impl Level {
    /// All of them, nearest first.
    pub const ALL: [Level; 4] = [Level::L1, Level::L2, Level::L3, Level::Dram];

    /// `L1` to `DRAM`.
    pub fn name(self) -> &'static str {
        match self {
            Level::L1 => "L1",
            Level::L2 => "L2",
            Level::L3 => "L3",
            Level::Dram => "DRAM",
        }
    }
}

/// What the caches hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Each core's first cache for data.
    pub l1: usize,
    /// Each core's second.
    pub l2: usize,
    /// All of the last.
    pub l3: usize,
}

/// What many CPUs have, where the system does not tell.
const USUAL: Sizes = Sizes { l1: 32 << 10, l2: 1 << 20, l3: 32 << 20 };
/// So much that some machines are said to have is not taken for measuring.
const MOST: usize = 256 << 20;

impl Sizes {
    /// Of this machine.
    pub fn here() -> Sizes {
        Sizes::of(&caches())
    }

    fn of(caches: &[Cache]) -> Sizes {
        let size = |level: &str| {
            let data = caches.iter().filter(|c| c.level == level && c.kind != "Instruction");
            data.map(Cache::bytes).max().filter(|&bytes| bytes > 0)
        };
        let l1 = size("1").unwrap_or(USUAL.l1).min(MOST);
        let l2 = size("2").unwrap_or(USUAL.l2).clamp(l1.saturating_mul(4), MOST);
        // Small CPUs have no third one; what is called so then is twice the second.
        let none = if size("2").is_some() { l2.saturating_mul(2) } else { USUAL.l3 };
        let l3 = size("3").unwrap_or(none).clamp(l2.saturating_mul(2), MOST.saturating_mul(2));
        Sizes { l1, l2, l3 }
    }

    /// The level that holds so many bytes, each thread working on its part of them.
    pub fn level(self, bytes: usize, threads: usize) -> Level {
        let part = bytes.div_ceil(threads.max(1));
        match () {
            () if part <= self.l1 => Level::L1,
            () if part <= self.l2 => Level::L2,
            () if bytes <= self.l3 => Level::L3,
            () => Level::Dram,
        }
    }

    /// Bytes that lie in a level and in none nearer, if so many threads each have their part and a core of their own.
    pub fn inside(self, level: Level, threads: usize) -> usize {
        let threads = threads.max(1);
        match level {
            Level::L1 => (self.l1 / 2).saturating_mul(threads),
            Level::L2 => (self.l2 / 2).saturating_mul(threads),
            Level::L3 => {
                let more_than_l2 = self.l2.saturating_mul(2).saturating_mul(threads);
                (self.l3 / 2).max(more_than_l2).min(self.beyond())
            }
            Level::Dram => self.beyond(),
        }
    }

    /// More than four times the last cache, so that it cannot help.
    pub fn beyond(self) -> usize {
        self.l3.saturating_mul(4).saturating_add(self.l3 / 4).max(64 << 20)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    fn cache(level: &str, kind: &str, size: &str) -> Cache {
        Cache { level: level.into(), kind: kind.into(), size: size.into(), shared: "0".into() }
    }

    #[test]
    fn sizes_are_those_of_caches_for_data() {
        let all = [
            cache("1", "Data", "48K"),
            cache("1", "Instruction", "64K"),
            cache("2", "Unified", "2M"),
            cache("3", "Unified", "36864K"),
        ];
        assert_eq!(Sizes::of(&all), Sizes { l1: 48 << 10, l2: 2 << 20, l3: 36 << 20 });
    }

    #[test]
    fn what_the_system_does_not_tell_is_as_usual_and_in_order() {
        assert_eq!(Sizes::of(&[]), USUAL);
        let odd = [cache("1", "Data", "x"), cache("2", "Unified", "16K"), cache("3", "Unified", "1T")];
        for sizes in [Sizes::of(&odd), Sizes::of(&odd[..2]), Sizes::of(&odd[1..])] {
            assert!(sizes.l1 < sizes.l2 && sizes.l2 < sizes.l3, "{sizes:?}");
        }
    }

    #[test]
    fn what_is_inside_a_level_is_found_there() {
        for threads in [1, 2, 7, 64] {
            for level in Level::ALL {
                let bytes = USUAL.inside(level, threads);
                let found = USUAL.level(bytes, threads);
                // More threads than the last cache has room for need more than it.
                assert!(found == level || (level == Level::L3 && threads == 64), "{threads}: {level:?}");
            }
        }
        assert!(USUAL.beyond() > 4 * USUAL.l3);
    }
}
