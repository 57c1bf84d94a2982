//! Watching deliveries: changes of state as they happen.
//!
//! A watch follows the store's feed of changes. One that is slower than the feed is long, or that goes on
//! after a restart, first catches up from the store: it gets each delivery that has changed since, once, as
//! it stands then. Nothing waits for a watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::delivery::{DeliveryFilter, check_times};
use super::{Control, Error, PageRequest};
use crate::auth::{Caller, Role};
use crate::domain::delivery::Delivery;
use crate::domain::id::{DeliveryId, OrganizationId};
use crate::domain::time::Timestamp;
pub use crate::store::changes::Place;
use crate::store::changes::{Overtaken, changed_at, slim};

/// The most changes that are handed out in one step.
const STEP: usize = 256;
/// Outcomes are committed in groups, so a change may be a little older than those told before it.
const OVERLAP: Duration = Duration::from_secs(10);

/// Where a watch goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchCursor {
    /// The place in the feed.
    pub place: Place,
    /// Everything that changed before this was told.
    pub since: Timestamp,
}

/// One change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The delivery after the change, with the attempt that caused it.
    pub delivery: Delivery,
    /// When it changed.
    pub at: Timestamp,
    /// The place behind it.
    pub cursor: WatchCursor,
}

/// A watch of some deliveries.
pub struct Watch {
    control: Arc<Control>,
    organization_id: OrganizationId,
    filter: DeliveryFilter,
    cursor: WatchCursor,
    catching_up: Option<CatchUp>,
}

/// Reading from the store what the feed no longer has.
#[derive(Clone, Copy)]
struct CatchUp {
    /// Where the list of deliveries goes on.
    after: Option<DeliveryId>,
    /// Where the feed is taken up again afterwards.
    resume: WatchCursor,
}

impl Control {
    /// Opens a watch, from now on or behind a cursor.
    ///
    /// # Errors
    /// [`Error::Invalid`] for the filter; [`Error::NotFound`] for its destination;
    /// [`Error::CursorExpired`] for a cursor older than the history.
    pub async fn watch_deliveries(
        self: &Arc<Self>,
        caller: &Caller,
        organization_id: &str,
        filter: DeliveryFilter,
        cursor: Option<WatchCursor>,
    ) -> Result<Watch, Error> {
        let organization_id = self.enter_known(caller, Role::Viewer, organization_id)?;
        check_times(&filter)?;
        self.check_destination(&organization_id, &filter).await?;
        if let Some(WatchCursor { place, since }) = cursor {
            let in_memory = self.store.changes().after(place, 0).is_ok();
            self.check_cursor(&organization_id, since, in_memory)?;
        }
        let now = self.clock.now();
        let cursor = cursor.unwrap_or(WatchCursor { place: self.store.changes().now(), since: now });
        let control = Arc::clone(self);
        Ok(Watch { control, organization_id, filter, cursor, catching_up: None })
    }
}

impl Watch {
    /// Whose deliveries are watched.
    #[must_use]
    pub const fn organization_id(&self) -> &OrganizationId {
        &self.organization_id
    }

    /// The place behind everything that was handed out.
    #[must_use]
    pub fn cursor(&self) -> WatchCursor {
        self.cursor
    }

    /// Waits for changes and hands out the next ones; may be dropped at any time without losing any. It may
    /// hand out none, where changes came that the watch does not want.
    ///
    /// # Errors
    /// [`Error::CursorExpired`] where it was overtaken for longer than history is kept; what the store answers.
    pub async fn next(&mut self) -> Result<VecDeque<Changed>, Error> {
        if self.catching_up.is_some() {
            return self.catch_up().await;
        }
        let feed = Arc::clone(self.control.store.changes());
        if feed.now().epoch == self.cursor.place.epoch {
            feed.changed(self.cursor.place).await;
        }
        let now = self.control.clock.now();
        match feed.after(self.cursor.place, STEP) {
            Err(Overtaken) => {
                self.control.check_cursor(&self.organization_id, self.cursor.since, false)?;
                let resume = WatchCursor { place: feed.now(), since: now };
                self.catching_up = Some(CatchUp { after: None, resume });
                Ok(VecDeque::new())
            }
            Ok(changes) => {
                let mut told = VecDeque::new();
                for change in &changes {
                    let place = Place { sequence: change.sequence, ..self.cursor.place };
                    // What was not handed out yet changed no earlier than this one, but for the overlap.
                    let since = changed_at(&change.delivery).min(now).max(self.cursor.since);
                    self.cursor = WatchCursor { place, since };
                    if self.wants(&change.delivery) {
                        let at = changed_at(&change.delivery);
                        told.push_back(Changed {
                            delivery: change.delivery.clone(),
                            at,
                            cursor: self.cursor,
                        });
                    }
                }
                Ok(told)
            }
        }
    }

    /// One step through the deliveries in the store. The cursor stays until all were handed out, so that a
    /// watch that is cut off meanwhile begins the catching up anew.
    async fn catch_up(&mut self) -> Result<VecDeque<Changed>, Error> {
        let Some(CatchUp { after, resume }) = self.catching_up else { return Ok(VecDeque::new()) };
        let since = self.cursor.since - OVERLAP;
        let page = PageRequest { after, limit: STEP };
        let found = self.control.find_deliveries(&self.organization_id, &self.filter, page).await?;
        let changed = found.rows.iter().filter(|delivery| changed_at(delivery) >= since);
        let told = changed.map(|delivery| Changed {
            delivery: slim(delivery),
            at: changed_at(delivery),
            cursor: self.cursor,
        });
        let told = told.collect();
        match found.next {
            Some(next) => self.catching_up = Some(CatchUp { after: Some(next), resume }),
            None => {
                self.catching_up = None;
                self.cursor = resume;
            }
        }
        Ok(told)
    }

    fn wants(&self, delivery: &Delivery) -> bool {
        let event = self.filter.event_id.as_ref();
        delivery.organization_id == self.organization_id
            && event.is_none_or(|id| *id == delivery.event_id.as_str())
            && self.filter.fits(delivery)
    }
}
