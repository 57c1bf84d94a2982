//! Decisions as pure functions of state, input, time and a random draw.

pub mod address;
pub mod breaker;
pub mod concurrency;
pub mod host_rate;
pub mod pace;
pub mod rate;
pub mod retry;
pub mod retry_after;
pub mod special;
pub mod standing;
