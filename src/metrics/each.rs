//! One metric for each value of a closed set, all there from the start.

use std::fmt::Debug;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::TypedMetric;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// A value of a closed set, as labels show it.
pub trait Label: Copy {
    /// How many values there are.
    const COUNT: usize;
    /// All values, in order of their index.
    fn all() -> Vec<Self>;
    /// The place of this value among all.
    fn index(self) -> usize;
    /// The label's name and its value; several where the set is a product of sets.
    fn pairs(self) -> Vec<Pair>;
}

/// The name of a label and its value.
pub type Pair = (&'static str, &'static str);

/// A closed set of words: the values of one label.
pub trait Words: Copy + PartialEq + 'static {
    /// The label's name.
    const LABEL: &'static str;
    /// All of them.
    const ALL: &'static [Self];
    /// The value as the label shows it.
    fn word(self) -> &'static str;
}

impl<W: Words> Label for W {
    const COUNT: usize = W::ALL.len();

    fn all() -> Vec<Self> {
        W::ALL.to_vec()
    }

    fn index(self) -> usize {
        // A value that is not among all has no place, and is counted nowhere.
        W::ALL.iter().position(|one| *one == self).unwrap_or(Self::COUNT)
    }

    fn pairs(self) -> Vec<Pair> {
        vec![(W::LABEL, self.word())]
    }
}

impl<A: Label, B: Label> Label for (A, B) {
    const COUNT: usize = A::COUNT * B::COUNT;

    fn all() -> Vec<Self> {
        A::all().into_iter().flat_map(|a| B::all().into_iter().map(move |b| (a, b))).collect()
    }

    fn index(self) -> usize {
        self.0.index() * B::COUNT + self.1.index()
    }

    fn pairs(self) -> Vec<Pair> {
        self.0.pairs().into_iter().chain(self.1.pairs()).collect()
    }
}

/// One metric for each value of `L`. Clones share everything.
#[derive(Debug)]
pub struct Each<L, M> {
    family: Family<Vec<Pair>, M, fn() -> M>,
    handles: Vec<M>,
    labels: std::marker::PhantomData<fn(L)>,
}

impl<L, M: Clone> Clone for Each<L, M> {
    fn clone(&self) -> Self {
        Self { family: self.family.clone(), handles: self.handles.clone(), labels: self.labels }
    }
}

impl<L: Label, M: Clone + Default> Default for Each<L, M> {
    fn default() -> Self {
        Self::new(M::default)
    }
}

impl<L: Label, M: Clone> Each<L, M> {
    /// The metrics, each made by `make`.
    #[must_use]
    pub fn new(make: fn() -> M) -> Self {
        let family: Family<Vec<Pair>, M, fn() -> M> = Family::new_with_constructor(make);
        let handles = L::all().into_iter().map(|label| family.get_or_create_owned(&label.pairs())).collect();
        Self { family, handles, labels: std::marker::PhantomData }
    }

    /// Does something with the metric of a value.
    pub fn with<T>(&self, label: L, change: impl FnOnce(&M) -> T) -> Option<T> {
        self.handles.get(label.index()).map(change)
    }

    /// Lets the registry write these metrics.
    pub fn register(&self, registry: &mut Registry, name: &str, help: &str)
    where
        M: EncodeMetric + TypedMetric + Debug + Send + Sync + 'static,
    {
        registry.register(name, help, self.family.clone());
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;
    use crate::domain::attempt::OutcomeClass;
    use crate::domain::contract::Contract;

    #[test]
    fn every_value_of_a_product_has_a_place_of_its_own() {
        let all = <(Contract, OutcomeClass)>::all();
        assert_eq!(all.len(), <(Contract, OutcomeClass)>::COUNT);
        for (place, label) in all.into_iter().enumerate() {
            assert_eq!(label.index(), place);
        }
        let each = Each::<(Contract, OutcomeClass), Counter>::default();
        each.with((Contract::Observer, OutcomeClass::Timeout), Counter::inc);
        let count = |contract, class| each.with((contract, class), Counter::get);
        assert_eq!(count(Contract::Observer, OutcomeClass::Timeout), Some(1));
        assert_eq!(count(Contract::Observer, OutcomeClass::Success), Some(0));
    }
}
