//! What unit tests share.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Makes nearly valid input: seeds with bytes changed, cut, doubled and spliced. The same seed makes the same input.
pub(crate) struct Mutate(u64);

impl Mutate {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap_or(0) % bound.max(1)
    }

    /// The next piece of junk.
    pub(crate) fn next(&mut self, seeds: &[impl AsRef<[u8]>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].as_ref().to_vec();
        for _ in 0..self.below(4) {
            let place = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(place),
                1 => bytes.insert(place, b"{}[]\",:\\\n\0x9-.e\xff\xc3"[self.below(17)]),
                2 if place < bytes.len() => bytes[place] = u8::try_from(self.below(256)).unwrap_or(0),
                3 if place < bytes.len() => drop(bytes.remove(place)),
                4 => {
                    let end = place + self.below(bytes.len() - place + 1);
                    bytes.extend_from_within(place..end);
                }
                _ => {
                    let other = seeds[self.below(seeds.len())].as_ref();
                    bytes.truncate(place);
                    bytes.extend_from_slice(&other[self.below(other.len())..]);
                }
            }
        }
        bytes
    }
}

/// Passes every file of `tests/corpus/NAME` to a reader, and `mutations` variants of them from `seed`. `read` checks
/// the reader's laws and returns whether it accepted the bytes: it must accept exactly the files whose names begin
/// with `valid`.
pub(crate) fn replay(name: &str, seed: u64, mutations: usize, mut read: impl FnMut(&[u8]) -> bool) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name);
    let mut paths: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let files: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut read = |bytes: &[u8], of: &str| {
        let shown = || bytes[..bytes.len().min(4_096)].escape_ascii();
        catch_unwind(AssertUnwindSafe(|| read(bytes))).unwrap_or_else(|_| panic!("{of}: {}", shown()))
    };
    for (path, bytes) in paths.iter().zip(&files) {
        let file = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(read(bytes, file), file.starts_with("valid"), "whether {name}/{file} is taken");
    }
    let mut mutate = Mutate::new(seed);
    let taken = (0..mutations)
        .filter(|number| read(&mutate.next(&files), &format!("{name}, mutation {number} of seed {seed}")))
        .count();
    let refused = mutations - taken;
    assert!(taken.min(refused) > mutations / 100, "{taken} of {mutations} were taken: this tests too little");
}
