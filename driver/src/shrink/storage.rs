//! Constants that go back to more bits for a gate where 8 bits are at fault: of bodies first, whose errors add up from step to step.
use std::collections::BTreeSet;

use onnx_shrink_ir::Model;
use onnx_shrink_passes::{
    calibration::calibrators::Calibrator,
    weight_only::least_bits::{Least, LeastBits, Storable, storable},
};

use super::{Job, quantize::FALL_BACK_RUNS};
use crate::{
    Failure, Samples,
    int8::{Calibrated, Int8, Quantized},
    plan::Reason,
    report::Note,
    request::formats::Dynamic,
    sensitivity,
};

/// `constants` with at least `least` for those of `set`, and a step less for all others.
fn at_least(constants: &[Storable], set: &BTreeSet<usize>, least: Least) -> LeastBits {
    let of = |(index, constant): (usize, &Storable)| {
        let found = if set.contains(&index) { Some(least) } else { (least == Least::Float).then_some(Least::Sixteen) };
        found.map(|least| (constant.name.clone(), least))
    };
    LeastBits { by_name: constants.iter().enumerate().filter_map(of).collect(), alone: false }
}

/// The fewest of `constants` in 16 bits, or where those are too few in floats, with which the gates hold; `None` where nothing helps.
fn fewest(
    constants: &[Storable],
    holds: &mut dyn FnMut(&LeastBits) -> Result<bool, Failure>,
) -> Result<Option<LeastBits>, Failure> {
    let mut order: Vec<usize> = (0..constants.len()).collect();
    order.sort_by_key(|&index| (!constants[index].in_body, constants[index].bytes, index));
    let all: BTreeSet<usize> = order.iter().copied().collect();
    for least in [Least::Sixteen, Least::Float] {
        if constants.is_empty() || !holds(&at_least(constants, &all, least))? {
            continue;
        }
        let mut with = |set: &BTreeSet<usize>| holds(&at_least(constants, set, least));
        let found = sensitivity::fewest(&order, FALL_BACK_RUNS, &mut with)?.unwrap_or(all);
        return Ok(Some(at_least(constants, &found, least)));
    }
    Ok(None)
}

/// The note of what went back.
fn note(least: &LeastBits) -> Note {
    Note::InMoreBits(least.by_name.keys().cloned().collect())
}

impl Job<'_> {
    /// Finds the fewest constants, of bodies alone or of all, that must have more bits so that the gates hold with the units
    /// `kept` in float, and has `calibrated` store them so; whether there are any.
    pub(super) fn return_constants(
        &mut self,
        calibrated: &mut Calibrated<'_>,
        calibrator: Calibrator,
        kept: &BTreeSet<usize>,
        held_out: &Samples,
        of_bodies: bool,
    ) -> Result<bool, Failure> {
        let constants: Vec<Storable> =
            calibrated.storable().into_iter().filter(|constant| constant.in_body || !of_bodies).collect();
        let mut holds = |least: &LeastBits| -> Result<bool, Failure> {
            calibrated.store_at_least(least.clone());
            let quantized = calibrated.build(&calibrated.plan(kept), calibrator)?;
            if quantized.journal.done() == 0 {
                return Ok(false); // what is left is the float model
            }
            self.gates_hold(&quantized, held_out)
        };
        let found = fewest(&constants, &mut holds)?;
        calibrated.store_at_least(found.clone().unwrap_or(LeastBits::default()));
        if let Some(least) = &found {
            calibrated.note(note(least));
        }
        Ok(found.is_some())
    }

    /// `quantized`, made of `lossless` without samples that calibrate, where samples that judge find a gate failed: with as many
    /// bits for single constants as it takes.
    pub(super) fn with_constants_returned(
        &mut self,
        int8: &Int8<'_>,
        lossless: &Model,
        dynamic: Dynamic,
        quantized: Quantized,
    ) -> Result<Quantized, Failure> {
        let Some(held_out) = self.held_out().filter(|_| self.request.validate) else { return Ok(quantized) };
        if self.gates_hold(&quantized, &held_out)? {
            return Ok(quantized);
        }
        let constants: Vec<Storable> =
            storable(&lossless.graph).into_iter().filter(|constant| constant.rank >= 2).collect();
        let mut holds = |least: &LeastBits| -> Result<bool, Failure> {
            match int8.without_samples_at_least(lossless, dynamic, &Reason::NoSamples, least)? {
                Ok(quantized) => self.gates_hold(&quantized, &held_out),
                Err(_) => Ok(false), // nothing would be left in 8 bits
            }
        };
        let Some(least) = fewest(&constants, &mut holds)? else { return Ok(quantized) };
        let Ok(mut returned) = int8.without_samples_at_least(lossless, dynamic, &Reason::NoSamples, &least)? else {
            return Ok(quantized);
        };
        returned.notes.push(note(&least));
        Ok(returned)
    }

    fn gates_hold(&mut self, quantized: &Quantized, held_out: &Samples) -> Result<bool, Failure> {
        let comparison = self.compare(&quantized.model, held_out)?;
        Ok(comparison.is_none_or(|found| self.request.gates.int8(&found).iter().all(|gate| gate.passed)))
    }
}
