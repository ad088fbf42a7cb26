//! Options that do not go together, refused before the work.
use crate::{
    Failure, Request,
    gates::{Gate, Gates},
    request::{
        formats::{Format, FormatOptions, Requantizing},
        qdq::Place,
        weights::{Weights, WeightsOptions},
    },
};

impl FormatOptions {
    /// Whether the rest of `request` goes with it.
    pub(super) fn check(&self, request: &Request) -> Result<(), Failure> {
        let format = self.format.name();
        let target = request.target;
        if self.format != Format::Qdq && !target.formats.contains(&format) {
            let runs = if target.formats.is_empty() { "none".to_owned() } else { target.formats.join(", ") };
            let name = target.name;
            return Err(Failure::usage(format_args!(
                "--format {format}: the target {name} runs other forms in integers: {runs}"
            )));
        }
        let has_ranges = request.data.is_some() || request.ranges.from_model || request.ranges.synthetic.is_some();
        if self.format != Format::Qdq && !(request.int8 && has_ranges) {
            return Err(Failure::usage(
                "--format writes integer layers: it needs --int8, and --data to find their ranges",
            ));
        }
        if self.requantize != Requantizing::Frozen && self.format != Format::Integer {
            return Err(Failure::usage("--requantize shrink is a form of --format integer: add that"));
        }
        if self.dynamic && !request.int8 {
            return Err(Failure::usage("--dynamic is a way of --int8: add that"));
        }
        if self.dynamic && request.qdq.place == Place::Wrap {
            return Err(Failure::usage(
                "--place wrap gives every layer calibrated ranges: it does not go with --dynamic",
            ));
        }
        if self.dynamic && !target.dynamic {
            return Err(Failure::usage(format_args!(
                "--dynamic: the target {} has no kernels that find their ranges in each run: leave --dynamic out",
                target.name
            )));
        }
        Ok(())
    }
}

impl WeightsOptions {
    /// Whether the rest of `request` goes with it.
    pub(super) fn check(&self, request: &Request) -> Result<(), Failure> {
        let Some(name) = self.weights.map(Weights::name) else { return Ok(()) };
        if request.exact || request.int8 {
            let other = if request.exact { "--exact" } else { "--int8" };
            return Err(Failure::usage(format_args!(
                "--weights {name} does not go with {other}: leave out one of them"
            )));
        }
        let (target, small) = (request.target.name, request.target.small);
        if !small.contains(&name) {
            let reads = if small.is_empty() { "none".to_owned() } else { small.join(", ") };
            return Err(Failure::usage(format_args!(
                "--weights {name}: of these types the target {target} reads: {reads}"
            )));
        }
        Ok(())
    }
}

impl Gates {
    /// Refuses gates for which `request` leaves nothing to judge them by.
    pub(super) fn check(&self, request: &Request) -> Result<(), Failure> {
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
    use crate::{ExitCode, Gates, Request};

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
}
