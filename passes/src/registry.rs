//! The registry: every pass with a name that a user can state, in the order of a run.
//!
//! `--list-passes`, `--skip` and docs/PASSES.md are made of it. A pass describes itself in its own file; a test of this crate
//! wants each of them here.
use std::collections::BTreeSet;

use crate::{
    Description,
    lossless::{
        drop_constant_channels, eliminate_dead, eliminate_identity, fold_arithmetic, fold_batch_norm, fold_constants,
        fold_neg, fold_pad, fuse_gelu, fuse_global_average_pool, fuse_hard_sigmoid, fuse_instance_normalization,
        fuse_layer_normalization, fuse_rms_normalization, fuse_softmax, inline_if, merge_equal_ops, simplify_islands,
    },
    low_rank::split_low_rank,
    prune::{linearize_branches, prune_channels},
    quantize::{
        cancel_qdq, dynamic_int8, fix_saturation, insert_qdq, layout_in_u8, to_integer, to_qoperator, wrap_qdq,
    },
    weight_only::{fold_weights, store_fp16, store_int4, store_int8},
};

/// All passes. Those of the lossless part stand in the order of [`pipeline::lossless`](crate::pipeline::lossless).
pub const PASSES: &[&Description] = &[
    &fold_constants::PASS,
    &inline_if::PASS,
    &eliminate_identity::PASS,
    &merge_equal_ops::PASS,
    &fuse_instance_normalization::PASS,
    &fuse_layer_normalization::PASS,
    &fuse_rms_normalization::PASS,
    &fuse_softmax::PASS,
    &fuse_gelu::PASS,
    &fuse_hard_sigmoid::PASS,
    &fold_batch_norm::PASS,
    &fold_arithmetic::PASS,
    &fold_neg::PASS,
    &fold_pad::PASS,
    &fuse_global_average_pool::PASS,
    &drop_constant_channels::PASS,
    &simplify_islands::PASS,
    &eliminate_dead::PASS,
    &split_low_rank::PASS,
    &prune_channels::PASS,
    &linearize_branches::PASS,
    &cancel_qdq::PASS,
    &fix_saturation::PASS,
    &fold_weights::PASS,
    &insert_qdq::PASS,
    &wrap_qdq::PASS,
    &dynamic_int8::PASS,
    &store_int8::PASS,
    &store_int4::PASS,
    &store_fp16::PASS,
    &layout_in_u8::PASS,
    &to_qoperator::PASS,
    &to_integer::PASS,
];

/// Names of all passes.
pub fn names() -> BTreeSet<&'static str> {
    PASSES.iter().map(|pass| pass.name).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::PASSES;
    use crate::{When, pipeline};

    /// Files below `folder`, as paths from it.
    fn sources(folder: &Path, within: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder.join(within)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{within}{}", entry.file_name().to_str().unwrap());
            if entry.path().is_dir() {
                sources(folder, &format!("{path}/"), found);
            } else {
                found.push(path);
            }
        }
    }

    #[test]
    fn every_pass_is_listed_and_says_what_it_does_in_one_line() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        sources(&folder, "", &mut files);
        let stated = |file: &String| {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            text.lines()
                .any(|line| line.starts_with("pub const PASS: Description"))
                .then(|| file.rsplit('/').next().unwrap().replace(".rs", ""))
        };
        let mut stated: Vec<String> = files.iter().filter_map(stated).map(|name| name.replace('_', "-")).collect();
        let mut listed: Vec<&str> = PASSES.iter().map(|pass| pass.name).collect();
        stated.sort();
        listed.sort_unstable();
        assert_eq!(stated, listed);
        for pass in PASSES {
            assert!(
                !pass.about.is_empty() && !pass.about.contains('\n') && !pass.about.ends_with('.'),
                "{}",
                pass.name
            );
        }
    }

    #[test]
    fn the_lossless_passes_are_listed_in_the_order_of_the_pipeline() {
        let mut order: Vec<&str> = Vec::new();
        for pass in pipeline::lossless() {
            if !order.contains(&pass.name()) {
                order.push(pass.name());
            }
        }
        let listed: Vec<&str> =
            PASSES.iter().filter(|pass| pass.when == When::Lossless).map(|pass| pass.name).collect();
        assert_eq!(order, listed);
    }
}
