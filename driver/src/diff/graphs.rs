//! The comparison of two graphs, bodies included.
use onnx_shrink_ir::Graph;

use super::{
    change::Outcome,
    compare::Compare,
    index::Index,
    interface,
    matching::{Frame, match_ops},
    view::View,
};

impl Compare<'_> {
    /// Compares two graphs, bodies included. `captured` are the values of the graph around that correspond; `around` is the
    /// op of the main graph that the bodies belong to.
    pub(super) fn graphs(
        &self,
        a: &Graph,
        b: &Graph,
        captured: &[(onnx_shrink_ir::ValueId, onnx_shrink_ir::ValueId)],
        scope: &str,
        around: Option<(usize, usize)>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let inputs = interface::match_ports(a, b, false, self.options.ignore_names || !scope.is_empty());
        let outputs = interface::match_ports(a, b, true, self.options.ignore_names || !scope.is_empty());
        // An input with a default that the other side does not have was made a constant.
        let index_a = Index::new(a, &|place| inputs[place].is_none());
        let index_b = Index::new(b, &|place| !inputs.contains(&Some(place)));
        let outer = index_a.outer.iter().map(|outer| {
            let twin = captured.iter().find(|(one, _)| one == outer).map(|(_, other)| *other);
            let twin = twin.or_else(|| b.find(a.name_of(*outer)));
            twin.and_then(|twin| index_b.outer.iter().position(|other| *other == twin))
        });
        let outer = outer.collect();
        interface::compare_ports(a, b, false, &inputs, scope.is_empty() && !self.options.ignore_names, &mut outcome);
        interface::compare_ports(a, b, true, &outputs, scope.is_empty() && !self.options.ignore_names, &mut outcome);
        let frame = Frame { inputs, outputs, outer, names: !self.options.ignore_names };
        let matches = match_ops(&index_a, &index_b, &frame);
        if index_a.constant_ops != index_b.constant_ops {
            let text = format!(
                "{} → {} Constant ops (other constants are initializers)",
                index_a.constant_ops, index_b.constant_ops
            );
            outcome.notes.push(text);
        }
        let view = View::new(self, &index_a, &index_b, &frame, &matches);
        outcome.changes.extend(view.changes());
        for (place, twin) in matches.to_b.iter().enumerate() {
            let Some(twin) = *twin else { continue };
            outcome.pairs.push((place, twin));
            outcome.renamed += usize::from(index_a.label(place) != index_b.label(twin));
            self.bodies(&view, place, twin, scope, around, &mut outcome);
        }
        for change in &mut outcome.changes {
            if change.scope.is_empty() {
                scope.clone_into(&mut change.scope);
                change.around = around;
            }
        }
        outcome
    }

    fn bodies(
        &self,
        view: &View<'_, '_>,
        place: usize,
        twin: usize,
        scope: &str,
        around: Option<(usize, usize)>,
        outcome: &mut Outcome,
    ) {
        let (op, other) = (view.a.op(place), view.b.op(twin));
        for (number, region) in op.regions().iter().enumerate() {
            let name = op.region_name(region);
            let same = |other_region: &onnx_shrink_ir::Region| other.region_name(other_region) == name;
            let Some(twin_number) = other.regions().iter().position(same) else { continue };
            let captured = view.captured(place, number, twin, twin_number);
            let inner = format!("{scope}{}{}.{name}", if scope.is_empty() { "" } else { "." }, view.a.label(place));
            let body = &other.regions()[twin_number].graph;
            let around = around.or(Some((place, twin)));
            let found = self.graphs(&region.graph, body, &captured, &inner, around);
            outcome.renamed += found.renamed;
            outcome.changes.extend(found.changes);
        }
    }
}
