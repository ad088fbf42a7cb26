//! Gates that the user gave: what they can judge, told before the work, and whether they were.
//!
//! **Never** lets a gate pass that nobody judged: a run that cannot judge one ends, and says what to do.
use std::collections::BTreeSet;

use crate::{Failure, Gates, Request, metrics::GateResult};

/// A gate, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Error of lossless rewrites
    LosslessRel,
    /// The same for models with 16-bit floats
    LosslessRelFp16,
    /// SQNR after quantization
    Sqnr,
    /// Accuracy lost
    Drop,
    /// Size of the file
    MaxBytes,
    /// SQNR after pruning
    PruneSqnr,
    /// Accuracy lost by pruning
    PruneDrop,
}

impl Gate {
    /// As the command line and reports have it.
    pub fn key(self) -> &'static str {
        match self {
            Gate::LosslessRel => "lossless-rel",
            Gate::LosslessRelFp16 => "lossless-rel-fp16",
            Gate::Sqnr => "sqnr",
            Gate::Drop => "drop",
            Gate::MaxBytes => "max-bytes",
            Gate::PruneSqnr => "prune-sqnr",
            Gate::PruneDrop => "prune-drop",
        }
    }

    /// Whether it is about how near outputs or answers are on real samples.
    pub fn wants_samples(self) -> bool {
        matches!(self, Gate::Sqnr | Gate::Drop | Gate::PruneSqnr | Gate::PruneDrop)
    }

    /// Whether it is about `--prune` alone.
    pub fn is_of_pruning(self) -> bool {
        matches!(self, Gate::PruneSqnr | Gate::PruneDrop)
    }

    /// What kept it from being judged where both models ran on the samples.
    pub fn lacks(self) -> &'static str {
        match self {
            Gate::Drop | Gate::PruneDrop => {
                "no sample that judges has a label that is one whole number (an array `y`, `label` or `labels`, or labels.txt beside images)"
            }
            Gate::LosslessRelFp16 => "the model has no 16-bit floats: its gate is lossless-rel",
            _ => "no output of the model is a tensor of floats",
        }
    }
}

impl Gates {
    /// The number that `gate` asks for.
    pub fn limit(&self, gate: Gate) -> f64 {
        match gate {
            Gate::LosslessRel => self.lossless_rel,
            Gate::LosslessRelFp16 => self.lossless_rel_fp16,
            Gate::Sqnr => self.sqnr,
            Gate::Drop => self.drop,
            Gate::MaxBytes => self.max_bytes.map_or(f64::INFINITY, |bytes| bytes as f64),
            Gate::PruneSqnr => self.prune_sqnr,
            Gate::PruneDrop => self.prune_drop,
        }
    }

    /// `gate` as on the command line.
    pub fn flag(&self, gate: Gate) -> String {
        format!("--gate {}={}", gate.key(), self.limit(gate))
    }

    /// Those that were given and are not among `judged`.
    pub fn not_among(&self, judged: &[GateResult]) -> BTreeSet<Gate> {
        let is_judged = |gate: &Gate| {
            let by = |key: &str| judged.iter().any(|result| result.gate == key && result.limit == self.limit(*gate));
            // (A drop that is given holds for pruning, too.)
            by(gate.key()) || *gate == Gate::Drop && by(Gate::PruneDrop.key())
        };
        self.given.iter().filter(|gate| !is_judged(gate)).copied().collect()
    }

    /// The failure of `gate`, which was given and could not be judged, as `why` says.
    pub fn not_judged(&self, gate: Gate, why: &str) -> String {
        format!("{} was given and could not be judged: {why}", self.flag(gate))
    }

    /// Refuses gates for which `request` leaves nothing to judge them by.
    pub fn check(&self, request: &Request) -> Result<(), Failure> {
        let refused = |gate: Gate, why: &str| Err(Failure::usage(format_args!("{} {why}", self.flag(gate))));
        for &gate in &self.given {
            if gate != Gate::MaxBytes && !request.validate {
                let flag = self.flag(gate);
                return Err(Failure::usage(format_args!("--no-validate judges no {flag}: leave out one of them")));
            }
            if gate.is_of_pruning() && request.structure.prune.is_none() {
                return refused(
                    gate,
                    "judges --prune, which is not asked for: leave out the gate, or say --prune SHARE",
                );
            }
            if gate.wants_samples() && request.data.is_none() && request.validation_data.is_none() {
                let labels = if matches!(gate, Gate::Drop | Gate::PruneDrop) { " with labels" } else { "" };
                let why = format!(
                    "needs real samples{labels} to judge by, made-up ones tell nothing of accuracy: give --data DIR or --validation-data DIR"
                );
                return refused(gate, &why);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Gate;
    use crate::{ExitCode, Gates, Request, metrics::GateResult};

    fn given(texts: &[&str]) -> Gates {
        let mut gates = Gates::default();
        texts.iter().for_each(|text| gates.set(text).unwrap());
        gates
    }

    #[test]
    fn what_no_flag_lets_be_judged_is_refused_before_the_work() {
        let with = |texts: &[&str], change: &dyn Fn(&mut Request)| {
            let mut request = Request { gates: given(texts), ..Request::new("m.onnx") };
            change(&mut request);
            request.gates.check(&request).map_err(|failure| (failure.code, failure.to_string()))
        };
        assert!(with(&["max-bytes=1k", "lossless-rel=1e-6"], &|_| ()).is_ok());
        assert!(with(&["max-bytes=1k"], &|request| request.validate = false).is_ok());
        assert!(with(&["sqnr=60", "drop=0.01"], &|request| request.data = Some("calib".into())).is_ok());
        for (texts, part) in [(["sqnr=60"], "--gate sqnr=60 needs real samples"), (["prune-drop=1"], "judges --prune")]
        {
            let (code, sentence) = with(&texts, &|_| ()).unwrap_err();
            assert!(code == ExitCode::Usage && sentence.contains(part), "{sentence}");
        }
        let (_, sentence) = with(&["sqnr=60"], &|request| request.validate = false).unwrap_err();
        assert_eq!(sentence, "--no-validate judges no --gate sqnr=60: leave out one of them");
    }

    #[test]
    fn only_what_was_given_has_to_be_judged_and_by_its_own_limit() {
        let result = |gate, limit| GateResult {
            gate,
            output: None,
            part: None,
            measured: None,
            limit,
            passed: true,
            reason: String::new(),
        };
        assert!(Gates::default().not_among(&[]).is_empty());
        let gates = given(&["sqnr=60", "drop=0.02"]);
        assert_eq!(gates.not_among(&[]).into_iter().collect::<Vec<_>>(), [Gate::Sqnr, Gate::Drop]);
        let judged = [result("sqnr", 60.0), result("prune-drop", 0.02)];
        assert!(gates.not_among(&judged).is_empty());
    }
}
