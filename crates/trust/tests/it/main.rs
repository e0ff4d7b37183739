//! Bundles made here, verified here.

mod cases;
mod signing;
mod world;
