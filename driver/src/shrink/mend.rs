//! What the user wants mended in a model that others quantized.
use onnx_shrink_ir::Model;
use onnx_shrink_passes::{
    Context,
    analysis::saturation::{self, saturating_layers},
    quantize::{CancelQdq, FixSaturation},
};

use super::Job;
use crate::{Failure, Gates, report::Note, request::qdq::Cancel};

impl Job<'_> {
    /// What the user wants mended in a model that others quantized, beyond what is exact: weights that can saturate get other
    /// scales (else a warning names them), and of two Quantizes in a row the last stays. Whether something changed.
    pub(super) fn mend(&mut self, model: &mut Model) -> Result<bool, Failure> {
        let layers = saturating_layers(&model.graph);
        let merges = self.request.qdq.cancel == Some(Cancel::Approximate);
        let fixes = self.request.qdq.fix_saturation;
        if self.request.exact && (fixes || merges) {
            let flag = if fixes { saturation::FLAG } else { "--cancel-qdq=approximate" };
            return Err(Failure::usage(format_args!("--exact forbids what {flag} stands for: leave out one of them")));
        }
        if fixes && layers.is_empty() {
            self.report.notes.push(Note::NothingSaturates(saturation::FLAG));
        }
        if self.report.unproven.is_some() {
            self.report.warnings.extend(saturation::warning(&layers));
            if fixes || merges {
                self.leave_float();
            }
            return Ok(false);
        }
        let evaluator = self.evaluator.clone();
        let mut cx = Context::new(self.options.clone(), evaluator.as_ref());
        let mut mended = model.detached();
        if merges {
            cx.run(&CancelQdq::approximate().on(self.request.target), &mut mended.graph).map_err(Failure::bug)?;
        }
        if fixes {
            cx.run(&FixSaturation, &mut mended.graph).map_err(Failure::bug)?;
        }
        self.report.warnings.extend(saturation::warning(&saturating_layers(&mended.graph)));
        let changed = cx.journal.done() > 0;
        if changed {
            let verdict = self.judge(&mended, Gates::int8)?;
            self.report.quantized = verdict.comparison;
            if let Some(reason) = verdict.failed {
                return Err(self.gate_failed(&reason));
            }
        }
        for (exactness, steps) in cx.cancelled {
            *self.report.cancelled.entry(exactness).or_default() += steps;
        }
        self.report.journal.extend(cx.journal.entries);
        if changed {
            *model = mended;
        }
        Ok(changed)
    }
}
