//! What a result must hold to be written: the gates, their limits, and how the user changes them.
//!
//! **Never** judges: [`metrics`](crate::metrics) does, by what was measured.
use std::collections::BTreeSet;

use crate::failure::did_you_mean;

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

/// What a result must hold to be written.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Gates {
    /// Largest relative L2 error of an output after lossless rewrites
    pub lossless_rel: f64,
    /// The same for models with 16-bit floats
    pub lossless_rel_fp16: f64,
    /// Least SQNR of a float output after quantization, in dB: at 13 a detector lost 2.7 % of its F1, at 14 half of that, at no loss of speed
    pub sqnr: f64,
    /// Largest loss of accuracy, as a share, beyond two standard errors of the paired difference
    pub drop: f64,
    /// Most bytes of the written model, its external data included; `None`: as many as the input
    pub max_bytes: Option<u64>,
    /// Least SQNR of a float output after pruning, in dB: less is another model
    pub prune_sqnr: f64,
    /// As `drop`, after pruning alone: who asks for less of a model expects some of it
    pub prune_drop: f64,
    /// Those that the user gave: each is judged, or the run ends and says why it cannot be
    pub given: BTreeSet<Gate>,
}

impl Default for Gates {
    fn default() -> Gates {
        Gates {
            lossless_rel: 1e-4,
            lossless_rel_fp16: 1e-2,
            sqnr: 14.0,
            drop: 0.01,
            max_bytes: None,
            prune_sqnr: 3.0,
            prune_drop: 0.1,
            given: BTreeSet::new(),
        }
    }
}

impl Gates {
    /// Changes the gate that `text` names: `KEY=VALUE`. Of two values for one key both have to hold: the stricter one counts.
    pub fn set(&mut self, text: &str) -> Result<(), String> {
        const KEYS: &str = "lossless-rel, lossless-rel-fp16, sqnr or min-sqnr (dB), drop or max-drop (a share: 0.01 is one \
                            point), max-bytes (a number, or one with k, M or G), prune-sqnr (dB), prune-drop (a share)";
        let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE; keys: {KEYS}"))?;
        let key = key.trim().replace('_', "-");
        let gate = match key.as_str() {
            "lossless-rel" => Gate::LosslessRel,
            "lossless-rel-fp16" => Gate::LosslessRelFp16,
            "sqnr" | "min-sqnr" => Gate::Sqnr,
            "drop" | "max-drop" => Gate::Drop,
            "prune-sqnr" => Gate::PruneSqnr,
            "prune-drop" => Gate::PruneDrop,
            "max-bytes" => Gate::MaxBytes,
            _ => {
                let keys = KEYS.split([',', ' ']).filter(|word| word.contains('-') || matches!(*word, "sqnr" | "drop"));
                return Err(format!("there is no gate `{key}`{}; keys: {KEYS}", did_you_mean(&key, keys)));
            }
        };
        let is_first = self.given.insert(gate);
        if gate == Gate::MaxBytes {
            let bytes = parse_bytes(value).ok_or_else(|| format!("the gate `{key}` wants bytes, not `{value}`"))?;
            self.max_bytes = Some(self.max_bytes.map_or(bytes, |least| least.min(bytes)));
            return Ok(());
        }
        let number = match value.trim().parse::<f64>() {
            Ok(number) if !number.is_nan() => number,
            _ => return Err(format!("the gate `{key}` wants a number, not `{value}`")),
        };
        let is_share = matches!(gate, Gate::Drop | Gate::PruneDrop);
        if is_share && number > 1.0 {
            let points = number / 100.0;
            return Err(format!("the gate `{key}` wants a share, not `{value}`: {number} points are {key}={points}"));
        }
        if matches!(gate, Gate::LosslessRel | Gate::LosslessRelFp16) && number < 0.0 {
            return Err(format!("the gate `{key}` wants an error of 0 or more, not `{value}`"));
        }
        let limit = match gate {
            Gate::LosslessRel => &mut self.lossless_rel,
            Gate::LosslessRelFp16 => &mut self.lossless_rel_fp16,
            Gate::Drop => &mut self.drop,
            Gate::PruneSqnr => &mut self.prune_sqnr,
            Gate::PruneDrop => &mut self.prune_drop,
            Gate::Sqnr | Gate::MaxBytes => &mut self.sqnr, // (bytes are set above)
        };
        *limit = match gate {
            _ if is_first => number,
            Gate::Sqnr | Gate::PruneSqnr => limit.max(number),
            _ => limit.min(number),
        };
        if gate == Gate::Drop && !self.given.contains(&Gate::PruneDrop) {
            self.prune_drop = self.drop;
        }
        Ok(())
    }
}

/// Bytes in "1500", "1.5k", "2 MB", "1GiB": k, M and G are powers of 1000, Ki, Mi and Gi of 1024.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
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

    /// The failure of `gate`, which was given and could not be judged, as `why` says.
    pub fn not_judged(&self, gate: Gate, why: &str) -> String {
        format!("{} was given and could not be judged: {why}", self.flag(gate))
    }
}

#[cfg(test)]
mod tests {
    use super::{Gate, Gates};

    #[test]
    fn gates_are_set_by_key() {
        let mut gates = Gates::default();
        gates.set("sqnr=20").unwrap();
        gates.set("drop = 0.003").unwrap();
        let given = [Gate::Sqnr, Gate::Drop].into();
        assert_eq!(gates, Gates { sqnr: 20.0, drop: 0.003, prune_drop: 0.003, given, ..Gates::default() });
        for (text, part) in [("sqnr", "KEY=VALUE"), ("snr=1", "no gate `snr`"), ("drop=x", "wants a number")] {
            assert!(gates.set(text).unwrap_err().contains(part), "{text}");
        }
        assert!(gates.set("drop=NaN").is_err());
        for (text, bytes) in [("1500", 1500), ("1.5k", 1500), ("2 MB", 2_000_000), ("1GiB", 1 << 30), ("0", 0)] {
            let mut gates = Gates::default();
            gates.set(&format!("max-bytes={text}")).unwrap();
            assert_eq!(gates.max_bytes, Some(bytes), "{text}");
        }
        assert!(gates.set("max-bytes=many").is_err() && gates.set("max-bytes=-1").is_err());
        gates.set("min-sqnr=30").unwrap();
        // Of two values both have to hold.
        gates.set("sqnr=25").unwrap();
        gates.set("max_drop=0.5").unwrap();
        assert_eq!((gates.sqnr, gates.drop), (30.0, 0.003));
        for (text, part) in [("drop=5", "5 points are drop=0.05"), ("lossless-rel=-1", "0 or more")] {
            assert!(Gates::default().set(text).unwrap_err().contains(part), "{text}");
        }
        // Whichever comes first, what was said of pruning holds for pruning.
        let mut gates = Gates::default();
        gates.set("prune-drop=0.2").unwrap();
        gates.set("drop=0.01").unwrap();
        assert_eq!((gates.drop, gates.prune_drop), (0.01, 0.2));
    }
}
