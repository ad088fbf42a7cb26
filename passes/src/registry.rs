//! The registry: every pass with a name that a user can state, in the order of a run.
//!
//! `--list-passes`, `--skip` and docs/PASSES.md are made of it. A pass describes itself in its own file; a test of this crate
//! wants each of them here.
use std::collections::BTreeSet;

use crate::{
    Description, lossless,
    low_rank::split_low_rank,
    prune::{linearize_branches, prune_channels},
    quantize::{
        cancel_qdq, dynamic_int8, fix_saturation, insert_qdq, layout_in_u8, to_integer, to_qoperator, wrap_qdq,
    },
    weight_only::{fold_weights, store_fp16, store_int4, store_int8},
};

/// The passes that run on request, behind those of [`lossless::in_order`].
const ON_REQUEST: &[&Description] = &[
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

/// All passes, each once, in the order of a run.
pub fn passes() -> Vec<&'static Description> {
    let mut all: Vec<&'static Description> = Vec::new();
    for pass in lossless::in_order() {
        if all.iter().all(|known| known.name != pass.name()) {
            all.push(pass.description());
        }
    }
    all.extend(ON_REQUEST);
    all
}

/// Names of all passes.
pub fn names() -> BTreeSet<&'static str> {
    passes().into_iter().map(|pass| pass.name).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::passes;

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
        let mut listed: Vec<&str> = passes().into_iter().map(|pass| pass.name).collect();
        stated.sort();
        listed.sort_unstable();
        assert_eq!(stated, listed);
        for pass in passes() {
            assert!(
                !pass.about.is_empty() && !pass.about.contains('\n') && !pass.about.ends_with('.'),
                "{}",
                pass.name
            );
        }
    }
}
