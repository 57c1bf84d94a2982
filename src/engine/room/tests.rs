use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::domain::id::OrganizationId;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);
const TIMEOUT: Duration = Duration::from_secs(10);

fn id(number: u16) -> DestinationId {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    DestinationId::from_bytes(bytes)
}

fn claim(thread: usize, number: u16, organization: &str) -> Claim {
    let organization_id = Some(OrganizationId::parse(organization).unwrap());
    Claim { thread, id: id(number), organization_id, standing: Standing::Prompt, bytes: 0 }
}

/// Serves a room of one place until nobody waits, and says in which order lanes had it.
fn order_of(room: &mut Room, threads: usize) -> Vec<DestinationId> {
    let mut order = Vec::new();
    loop {
        let granted: Vec<Grant> = (0..threads).flat_map(|thread| room.take_grants(thread)).collect();
        if granted.is_empty() {
            return order;
        }
        assert_eq!(granted.len(), 1, "there is one place");
        for Grant { id, place } in granted {
            order.push(id);
            let place = room.begin(place, 10, TIMEOUT, NOW);
            room.give_back(place, NOW);
        }
    }
}

#[test]
fn one_thread_uses_what_the_others_leave() {
    let mut room = Room::new(8, 1 << 20, 4);
    room.claim((0..9).map(|number| claim(0, number, "busy")), NOW);
    let mut granted = room.take_grants(0);
    assert_eq!(granted.len(), 8);
    assert_eq!((room.take_to_tell(), room.take_grants(0)), (vec![0], vec![]));
    // Another thread's lane is behind the ninth of this one, which has waited for longer.
    room.claim([claim(1, 20, "quiet")], NOW);
    assert_eq!((room.take_grants(1), room.take_to_tell()), (vec![], vec![]));
    room.give_back(granted.remove(0).place, NOW);
    assert_eq!(room.take_to_tell(), [0]);
    room.give_back(granted.remove(0).place, NOW);
    assert_eq!(room.take_to_tell(), [1]);
    assert_eq!(room.take_grants(1).len(), 1);
}

#[test]
fn places_go_by_organization_first_then_by_lane_whichever_thread_they_belong_to() {
    let mut room = Room::new(1, 1 << 20, 3);
    room.claim([1, 2, 3].map(|number| claim(0, number, "large")), NOW);
    room.claim([4, 5].map(|number| claim(1, number, "large")), NOW);
    room.claim([claim(1, 11, "small")], NOW);
    room.claim([claim(2, 21, "tiny"), claim(2, 12, "small")], NOW);
    assert_eq!(order_of(&mut room, 3), [1, 2, 11, 21, 3, 12, 4, 5].map(id));
}

#[test]
fn a_large_request_holds_back_others_by_its_bytes_until_it_turns_out_to_be_small() {
    let mut room = Room::new(100, 1000, 2);
    room.claim([Claim { bytes: 1000, ..claim(0, 1, "a") }], NOW);
    room.claim([Claim { bytes: 10, ..claim(1, 2, "b") }], NOW);
    let place = room.take_grants(0).remove(0).place;
    assert_eq!(room.take_grants(1), []);
    let place = room.begin(place, 999, TIMEOUT, NOW);
    let other = room.take_grants(1).remove(0).place;
    room.give_back(place, NOW);
    room.give_back(other, NOW);
}

#[test]
fn what_a_thread_leaves_behind_goes_to_the_others() {
    let mut room = Room::new(1, 1 << 20, 2);
    room.claim([claim(0, 1, "a"), claim(0, 2, "b")], NOW);
    room.claim([claim(1, 3, "c")], NOW);
    room.leave(0, NOW);
    assert_eq!(order_of(&mut room, 2), [id(3)]);
    room.claim([claim(0, 4, "a")], NOW);
    assert_eq!(order_of(&mut room, 2), []);
}

#[test]
fn a_place_that_is_changed_for_worse_is_free_where_there_is_no_other() {
    let mut room = Room::new(4, 1 << 20, 1);
    room.claim([1, 2].map(|number| Claim { standing: Standing::Failing, ..claim(0, number, "a") }), NOW);
    let first = room.take_grants(0).remove(0).place;
    room.claim([claim(0, 3, "a")], NOW);
    let prompt = room.take_grants(0).remove(0).place;
    assert_eq!(room.change(prompt, (Standing::Failing, 0), NOW), None);
    room.give_back(first, NOW);
    assert_eq!(room.take_grants(0).len(), 1, "the other failing one");
}

/// What may happen to a room.
#[derive(Debug, Clone)]
enum Happening {
    Claim { thread: usize, organization: u8, standing: usize, bytes: usize },
    Begin(usize),
    Change(usize, usize),
    End(usize),
    Pass(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (0..3_usize, 0..4_u8, 0..4_usize, 0..400_usize).prop_map(|(thread, organization, standing, bytes)| {
            Happening::Claim { thread, organization, standing, bytes }
        }),
        3 => any::<usize>().prop_map(Happening::Begin),
        1 => (any::<usize>(), 0..4_usize).prop_map(|(which, standing)| Happening::Change(which, standing)),
        3 => any::<usize>().prop_map(Happening::End),
        1 => (0..2_000_u64).prop_map(Happening::Pass),
    ]
}

/// A place that somebody has.
#[derive(Clone, Copy)]
struct Held {
    place: Place,
    bytes: usize,
    begun: bool,
}

/// Three threads that only look at what is theirs when they have changed something or were told.
struct Threads {
    room: Room,
    now: Timestamp,
    held: Vec<Held>,
    bytes_of: HashMap<DestinationId, usize>,
    granted: HashMap<DestinationId, u32>,
    waiting: usize,
}

impl Threads {
    fn happen(&mut self, happening: Happening) {
        let now = self.now;
        match happening {
            Happening::Claim { thread, organization, standing, bytes } => {
                let number = u16::try_from(self.bytes_of.len()).unwrap();
                let standing = Standing::ALL[standing];
                let claim = claim(thread, number, &format!("o{organization}"));
                self.bytes_of.insert(claim.id, bytes);
                self.waiting += 1;
                self.room.claim([Claim { standing, bytes, ..claim }], now);
            }
            Happening::Begin(which) if !self.held.is_empty() => {
                let which = which % self.held.len();
                let held = &mut self.held[which];
                if !std::mem::replace(&mut held.begun, true) {
                    held.bytes /= 2;
                    held.place = self.room.begin(held.place, held.bytes, TIMEOUT, now);
                }
            }
            Happening::Change(which, standing) if !self.held.is_empty() => {
                let which = which % self.held.len();
                let held = self.held.swap_remove(which);
                if let Some(place) = self.room.change(held.place, (Standing::ALL[standing], held.bytes), now)
                {
                    self.held.push(Held { place, begun: false, ..held });
                }
            }
            Happening::End(which) if !self.held.is_empty() => {
                let held = self.held.swap_remove(which % self.held.len());
                self.room.give_back(held.place, now);
            }
            Happening::Pass(millis) => {
                self.now = now + Duration::from_millis(millis);
                // Whoever waits looks when it is time.
                self.room.look(self.now);
            }
            Happening::Begin(_) | Happening::Change(..) | Happening::End(_) => {}
        }
        for thread in self.room.take_to_tell() {
            for Grant { id, place } in self.room.take_grants(thread) {
                *self.granted.entry(id).or_default() += 1;
                self.waiting -= 1;
                self.held.push(Held { place, bytes: self.bytes_of[&id], begun: false });
            }
        }
    }
}

proptest! {
    /// Whatever threads do, the bounds hold, and nobody who could have a place waits for it.
    #[test]
    fn the_bounds_hold_and_every_claim_is_granted_once(
        (requests, bytes) in (1..12_usize, 1..1_500_usize),
        happenings in prop::collection::vec(happening(), 1..200),
    ) {
        let room = Room::new(requests, bytes, 3);
        let (held, bytes_of, granted) = (Vec::new(), HashMap::new(), HashMap::new());
        let mut threads = Threads { room, now: NOW, held, bytes_of, granted, waiting: 0 };
        for happening in happenings {
            threads.happen(happening);
            let largest = threads.held.iter().map(|held| held.bytes).max().unwrap_or(0);
            let in_flight: usize = threads.held.iter().map(|held| held.bytes).sum();
            prop_assert!(threads.held.len() <= requests);
            prop_assert!(in_flight < bytes + largest.max(400), "{in_flight} of {bytes}");
            // The smallest share is one, so an empty room has a place for everybody.
            prop_assert!(threads.waiting == 0 || !threads.held.is_empty());
        }
        while !threads.held.is_empty() {
            threads.happen(Happening::End(0));
        }
        prop_assert_eq!(threads.waiting, 0);
        prop_assert!(threads.granted.values().all(|times| *times == 1));
        prop_assert_eq!(threads.granted.len(), threads.bytes_of.len());
        // Whatever was taken has been given back.
        threads.room.claim((0..requests).map(|number| claim(0, 60_000 + number as u16, "last")), threads.now);
        prop_assert_eq!(threads.room.take_grants(0).len(), requests);
    }
}
