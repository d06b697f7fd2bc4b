//! The GraphQL documents that we send.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document {
    /// Its file's name in `graphql/`.
    pub name: &'static str,
    pub text: &'static str,
}

macro_rules! documents {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $($(#[$doc])* pub const $name: Document =
            Document { name: $file, text: include_str!(concat!("graphql/", $file, ".graphql")) };)+
        /// All of them, for the test that validates them.
        pub const ALL: &[Document] = &[$($name),+];
    };
}

documents! {
    /// A draft transfer.
    TRANSFER_CREATE = "transfer_create";
    /// A transfer that is ready to ship.
    TRANSFER_CREATE_READY = "transfer_create_ready";
    /// Transfers by a search, the oldest first.
    TRANSFERS_BY_TAG = "transfers_by_tag";
    /// Scopes that the shop has granted. Needs none.
    ACCESS = "access";
    /// Locations by their ids. Needs `read_inventory`; with details `read_locations`.
    LOCATIONS = "locations";
}
