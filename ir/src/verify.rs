//! verify
pub struct Violation; impl std::fmt::Display for Violation { fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) } }
/// x
pub fn verify_graph(_: &crate::Graph) -> Vec<Violation> { Vec::new() }
