//! Several functions of one project: each an image of its own, and what they share made, kept and sent once.

use crate::build::{Built, Error, Tools, build};
use crate::plan::Plan;

/// Builds what the plans say and brings it where they say, the results in the plans' order.
pub async fn build_all(plans: Vec<Plan>, tools: &Tools) -> Vec<Result<Built, Error>> {
    let mut all = Vec::new();
    for plan in plans {
        all.push(Box::pin(build(plan, tools)).await);
    }
    all
}
