//! The sample upstream as a process of its own, for the tests of this crate.

fn main() -> Result<(), countersign_example_ads::Error> {
    countersign_example_ads::run_stdio(std::env::args().skip(1))
}
