//! Page tokens: where a list goes on, bound to the request that it belongs to.
//!
//! A token is base64url of a version, a fingerprint of the request's other arguments, the cursor, and a
//! checksum of all that. It is no permission: whoever makes one up learns nothing that the call itself
//! would not tell.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost::Message;

use crate::control::PageRequest;
use crate::domain::id::{AuditEntryId, DeliveryId, DestinationId, EventKey, OrganizationId, ReplayId};
use crate::domain::violation::{Rule, Violations};
use crate::grpc::proto::v1;

/// Rows where the caller does not say.
pub const DEFAULT_PAGE_SIZE: usize = 50;
/// Rows that a page never exceeds.
pub const MAX_PAGE_SIZE: usize = 1000;
/// The form of the tokens; another number when it changes.
const VERSION: u8 = 1;
/// Longer texts are no tokens of ours.
const TOKEN_MAX_BYTES: usize = 512;

/// What a list goes on after.
pub trait Cursor: Sized {
    /// The bytes of the cursor.
    fn to_bytes(&self) -> Vec<u8>;
    /// The cursor of these bytes.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Cursor for DestinationId {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(DestinationId::from_bytes)
    }
}

impl Cursor for DeliveryId {
    fn to_bytes(&self) -> Vec<u8> {
        [*self.event_key.as_bytes(), *self.destination_id.as_bytes()].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (event, destination) = bytes.split_at_checked(16)?;
        let event_key = EventKey::from_bytes(event.try_into().ok()?);
        Some(DeliveryId::new(event_key, <DestinationId as Cursor>::from_bytes(destination)?))
    }
}

impl Cursor for ReplayId {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(ReplayId::from_bytes)
    }
}

impl Cursor for AuditEntryId {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(AuditEntryId::from_bytes)
    }
}

impl Cursor for OrganizationId {
    fn to_bytes(&self) -> Vec<u8> {
        self.as_str().as_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        OrganizationId::parse(std::str::from_utf8(bytes).ok()?).ok()
    }
}

/// A place in a list of a few things that never change, counted from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position(pub u32);

impl Cursor for Position {
    fn to_bytes(&self) -> Vec<u8> {
        self.0.to_be_bytes().to_vec()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(u32::from_be_bytes).map(Position)
    }
}

/// A request for a page of a list.
pub trait Paged: Message + prost::Name {
    /// Takes its page size and its token out, which differ from page to page.
    fn take_page(&mut self) -> (i32, String);
}

macro_rules! paged {
    ($($request:ident),* $(,)?) => {$(
        impl Paged for v1::$request {
            fn take_page(&mut self) -> (i32, String) {
                (std::mem::take(&mut self.page_size), std::mem::take(&mut self.page_token))
            }
        }
    )*};
}

paged!(
    ListDeliveriesRequest,
    ListDeadLettersRequest,
    ListReplaysRequest,
    ExplainEventRequest,
    ListDestinationsRequest,
    ListContractsRequest,
    ListOrganizationsRequest,
    ListAuditEntriesRequest,
);

/// Makes and reads the tokens of one request.
#[derive(Debug, Clone, Copy)]
pub struct Pages {
    fingerprint: u32,
}

impl Pages {
    /// The pages of a request, which is given without its token and its page size: all else must stay
    /// the same from page to page.
    pub fn of<M: Message + prost::Name>(request: &M) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(M::NAME.as_bytes());
        hasher.update(&request.encode_to_vec());
        Self { fingerprint: hasher.finalize() }
    }

    /// Reads which page is wanted, and what its tokens are bound to. Page size and token are taken out of
    /// the request.
    pub fn open<M: Paged, C: Cursor>(request: &mut M, violations: &mut Violations) -> (Self, PageRequest<C>) {
        let (size, token) = request.take_page();
        let pages = Self::of(request);
        let page = pages.read(size, &token, violations);
        (pages, page)
    }

    fn read<C: Cursor>(self, size: i32, token: &str, violations: &mut Violations) -> PageRequest<C> {
        let limit = match usize::try_from(size) {
            Ok(0) => DEFAULT_PAGE_SIZE,
            Ok(size) => size.min(MAX_PAGE_SIZE),
            Err(_) => {
                let description = format!("is {size}; give 1 to {MAX_PAGE_SIZE}, or 0 for the default");
                violations.add_as(Rule::OutOfRange, "page_size", description);
                DEFAULT_PAGE_SIZE
            }
        };
        if token.is_empty() {
            return PageRequest { after: None, limit };
        }
        let after = self.cursor(token);
        if after.is_none() {
            let description =
                "is damaged or belongs to a request with other arguments; begin with the first page";
            violations.add_as(Rule::PageToken, "page_token", description);
        }
        PageRequest { after, limit }
    }

    /// The token of the page after this row; empty where there is none.
    pub fn next_token<C: Cursor>(self, last: Option<C>) -> String {
        let Some(last) = last else { return String::new() };
        let mut bytes = vec![VERSION];
        bytes.extend(self.fingerprint.to_be_bytes());
        bytes.extend(last.to_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor that a token holds, if it is one of this request.
    pub fn cursor<C: Cursor>(self, token: &str) -> Option<C> {
        if token.len() > TOKEN_MAX_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (sealed, checksum) = bytes.split_last_chunk::<4>()?;
        let (head, cursor) = sealed.split_first_chunk::<5>()?;
        let [version, fingerprint @ ..] = *head;
        let intact = crc32fast::hash(sealed) == u32::from_be_bytes(*checksum);
        let ours = version == VERSION && u32::from_be_bytes(fingerprint) == self.fingerprint;
        if intact && ours { C::from_bytes(cursor) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn pages(organization_id: &str) -> Pages {
        let organization_id = organization_id.to_owned();
        Pages::of(&v1::ListDestinationsRequest { organization_id, ..Default::default() })
    }

    fn read(pages: Pages, size: i32, token: &str) -> (PageRequest<DestinationId>, String) {
        let mut violations = Violations::new();
        let page = pages.read(size, token, &mut violations);
        (page, violations.to_string())
    }

    fn id() -> DestinationId {
        DestinationId::make(Timestamp::from_millis(1_700_000_000_000), [7; 10])
    }

    #[test]
    fn a_token_leads_to_the_row_that_it_was_made_for() {
        let token = pages("org_a").next_token(Some(id()));
        let (page, violations) = read(pages("org_a"), 0, &token);
        assert_eq!((page.after, page.limit, violations.as_str()), (Some(id()), DEFAULT_PAGE_SIZE, ""));
        assert_eq!(pages("org_a").next_token(None::<DestinationId>), "");
        let delivery = DeliveryId::new(EventKey::MAX, id());
        let token = pages("org_a").next_token(Some(delivery));
        assert_eq!(pages("org_a").cursor(&token), Some(delivery));
    }

    #[test]
    fn a_token_of_other_arguments_or_another_method_is_refused() {
        let token = pages("org_a").next_token(Some(id()));
        assert!(read(pages("org_b"), 0, &token).1.starts_with("page_token: "));
        let other =
            Pages::of(&v1::ListReplaysRequest { organization_id: "org_a".into(), ..Default::default() });
        assert!(read(other, 0, &token).1.starts_with("page_token: "));
    }

    #[test]
    fn garbage_and_every_single_changed_character_are_refused() {
        let token = pages("org_a").next_token(Some(id()));
        for position in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(read(pages("org_a"), 0, &changed).0.after.is_none(), "{changed}");
        }
        for garbage in ["x", "====", "ä", &"A".repeat(5000), &token[..token.len() - 4]] {
            assert!(read(pages("org_a"), 0, garbage).1.contains("first page"), "{garbage}");
        }
    }

    #[test]
    fn sizes_are_cut_down_and_negative_ones_refused() {
        assert_eq!(read(pages("org_a"), 7, "").0.limit, 7);
        assert_eq!(read(pages("org_a"), 5000, "").0.limit, MAX_PAGE_SIZE);
        assert!(read(pages("org_a"), -1, "").1.starts_with("page_size: is -1"));
    }
}
