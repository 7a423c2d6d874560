//! Graphs that are kept to be computed again, each with intermediate memory of its own.

#![forbid(unsafe_code)]

use crate::ggml::{GgmlError, Graph, Observer, Profile, Scheduler, Slot};
use crate::memory::Topology;
use crate::model::step::StepInputs;

use super::EngineError;

/// Graphs of generation that are kept, since speculation changes between them: one, two, ... tokens to verify, and
/// drafts from the trunk's and from the head's own state.
const MOST_KEPT: usize = 8;

/// A graph that can be computed again for any plan of the same topology.
pub(super) struct Compiled {
    pub topology: Topology,
    pub graph: Graph,
    pub inputs: StepInputs,
    pub logits: Option<Slot>,
    pub mtp_logits: Option<Slot>,
    pub hidden: Option<Slot>,
}

/// A place for one graph.
struct Place {
    sched: Scheduler,
    compiled: Option<Compiled>,
    last_used: u64,
}

/// The latest graph of a prompt and the latest few of generation.
pub(super) struct Graphs {
    /// The first place is for prompts, which seldom come twice in one shape.
    places: Vec<Place>,
    clock: u64,
    profiling: bool,
    observer: Option<Observer>,
}

impl Graphs {
    pub fn new(sched: Scheduler) -> Self {
        let first = Place {
            sched,
            compiled: None,
            last_used: 0,
        };
        Self {
            places: vec![first],
            clock: 0,
            profiling: false,
            observer: None,
        }
    }

    /// A scheduler for graphs that are not kept.
    pub fn aside(&self) -> Result<Scheduler, GgmlError> {
        self.places[0].sched.beside()
    }

    /// Lets worker threads sleep until the next graph.
    pub fn rest(&mut self) {
        self.places[0].sched.rest();
    }

    /// The graph of a topology, built and given memory if it is not there; and whether it was built. `decoding` says that
    /// it is one of generation.
    pub fn get(
        &mut self,
        topology: &Topology,
        decoding: bool,
        build: impl FnOnce() -> Result<Compiled, EngineError>,
    ) -> Result<(&mut Scheduler, &Compiled, bool), EngineError> {
        self.clock += 1;
        let known = self
            .places
            .iter()
            .position(|p| p.compiled.as_ref().is_some_and(|c| c.topology == *topology));
        let (index, built) = match known {
            Some(index) => (index, false),
            None => {
                let index = self.vacate(decoding)?;
                let place = &mut self.places[index];
                place.compiled = None;
                let mut compiled = build()?;
                place.sched.allocate(&mut compiled.graph)?;
                place.compiled = Some(compiled);
                (index, true)
            }
        };
        let place = &mut self.places[index];
        place.last_used = self.clock;
        match &place.compiled {
            Some(compiled) => Ok((&mut place.sched, compiled, built)),
            None => Err(GgmlError::NotAllocated.into()),
        }
    }

    /// Index of the place that a new graph gets.
    fn vacate(&mut self, decoding: bool) -> Result<usize, EngineError> {
        if !decoding {
            return Ok(0);
        }
        if self.places.len() <= MOST_KEPT {
            let mut sched = self.places[0].sched.beside()?;
            match &self.observer {
                Some(observer) => sched.set_observer(Some(observer.clone())),
                None => sched.set_profiling(self.profiling),
            }
            self.places.push(Place {
                sched,
                compiled: None,
                last_used: 0,
            });
            return Ok(self.places.len() - 1);
        }
        let oldest = (1..self.places.len()).min_by_key(|&i| self.places[i].last_used);
        Ok(oldest.unwrap_or(0))
    }

    /// Bytes of intermediate memory.
    pub fn compute_bytes(&self) -> u64 {
        let of = |p: &Place| p.sched.compute_bytes().iter().map(|(_, b)| b).sum::<u64>();
        self.places.iter().map(of).sum()
    }

    /// Whether someone looks on.
    pub fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// The last call of this and [`Graphs::set_profiling`] decides.
    pub fn set_observer(&mut self, observer: Option<Observer>) {
        self.profiling = false;
        for place in &mut self.places {
            place.compiled = None;
            place.sched.set_observer(observer.clone());
        }
        self.observer = observer;
    }

    pub fn set_profiling(&mut self, on: bool) {
        self.profiling = on;
        self.observer = None;
        for place in &mut self.places {
            place.sched.set_profiling(on);
        }
    }

    pub fn take_profile(&mut self) -> Profile {
        let mut all = Profile::default();
        for place in &mut self.places {
            all.entries.append(&mut place.sched.take_profile().entries);
        }
        all
    }
}
