//! Rotation of signing secrets.

use std::time::Duration;

use super::audit::{Act, Action};
use super::destination::{DestinationView, Target};
use super::{Control, Error, random};
use crate::auth::Caller;
use crate::contract;
use crate::domain::destination::Destination;
use crate::domain::operational::OperationalEvent;
use crate::domain::secret::{RetiringSecret, Secret, SecretSource, SigningSecrets};
use crate::domain::time::Timestamp;

/// How long both secrets sign where the caller does not say.
pub const OVERLAP_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest that both secrets may sign.
pub const OVERLAP_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// How to rotate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rotation {
    /// The new secret; `None` has one generated.
    pub new_secret: Option<SecretSource>,
    /// How long the old one still signs besides; [`OVERLAP_DEFAULT`] where absent.
    pub overlap: Option<Duration>,
}

/// What came of a rotation.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotated {
    /// The destination, with its new secret.
    pub view: DestinationView,
    /// The generated secret, here and never again.
    pub generated: Option<Secret>,
}

impl Control {
    /// Replaces the signing secret. Until the overlap ends, contracts that can sign with two do so; the
    /// others go on with the old one and switch then. A secret that was retiring is gone.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `new_secret` or `overlap`, [`Error::NotFound`], [`Error::Stale`].
    pub async fn rotate_secret(
        &self,
        caller: &Caller,
        target: Target<'_>,
        rotation: Rotation,
    ) -> Result<Rotated, Error> {
        let entry = self.find_target(caller, target)?;
        let stored = Destination::clone(&entry.destination);
        let overlap = rotation.overlap.unwrap_or(OVERLAP_DEFAULT);
        if overlap > OVERLAP_MAX {
            return Err(Error::invalid("overlap", format!("is {overlap:?}; give at most 7 days")));
        }
        let (current, generated) = match rotation.new_secret {
            Some(source) => (self.check_new_secret(&stored, source)?, None),
            None => {
                let secret = contract::generate_secret(stored.contract, random()?);
                (SecretSource::Value(secret.clone()), Some(secret))
            }
        };
        let now = self.clock.now();
        let signing = rotate(&stored, current, overlap, now);
        let changed = Destination { signing, updated_at: now, ..stored };
        let told = OperationalEvent::SecretRotated {
            destination_id: changed.id,
            rotated_at: now,
            overlap_ends: now + overlap,
        };
        let act = Act::new(caller, Action::RotateSecret).telling(Some(&told));
        let view = self.store_changed(act, &entry, changed, false).await?;
        Ok(Rotated { view, generated })
    }

    fn check_new_secret(&self, stored: &Destination, source: SecretSource) -> Result<SecretSource, Error> {
        let checked = match &source {
            SecretSource::Value(value) => contract::check_signing_secret(stored.contract, value),
            SecretSource::EnvironmentVariable(_) | SecretSource::File(_) => {
                self.secrets.check_allowed(Some(&stored.organization_id), &source)
            }
        };
        checked.map_err(|problem| Error::invalid("new_secret", problem))?;
        Ok(source)
    }
}

fn rotate(stored: &Destination, new: SecretSource, overlap: Duration, now: Timestamp) -> SigningSecrets {
    let old = stored.signing.current.clone().filter(|old| !overlap.is_zero() && *old != new);
    let retiring = old.map(|source| RetiringSecret { source, until: now + overlap });
    SigningSecrets { current: Some(new), retiring }
}
