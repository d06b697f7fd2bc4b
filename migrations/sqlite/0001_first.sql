-- The store on SQLite. A migration that has been released is never edited: the next change is a new file
-- (and a line in src/adapters/embedded/sqlite/connect.rs).
--
-- Times are Unix microseconds in UTC.

-- One row; the id binds a consumer group to this store.
create table store_identity (
    only_row   integer primary key check (only_row = 1),
    store_id   blob not null,
    created_at integer not null
) strict;
insert into store_identity values (1, randomblob(16), cast(unixepoch('subsec') * 1000000 as integer));

-- Who owns a partition of the facts, and where folding starts. Never deleted: epochs only grow.
create table partition_owner (
    partition        integer primary key,
    epoch            integer not null,
    node             text not null,
    acquired_at      integer not null,
    -- The checkpoint; null until the first save.
    facts_offset     integer,
    decisions_offset integer,
    check ((facts_offset is null) = (decisions_offset is null))
) strict;

create table snapshot (
    partition     integer not null,
    shop          text not null,
    -- 0 shard, 1 shop, 2 variant
    entity        integer not null,
    -- Bits of an unsigned 64-bit number (ids over 2^63 read as negative); 0 unless the entity is a variant.
    variant_id    integer not null,
    fact_offset   integer not null,
    epoch         integer not null,
    version       integer not null,
    checksum      integer not null,
    state         blob not null,
    -- For people who query in SQL; the program never reads these.
    sku           text,
    vendor        text,
    available     integer,
    risk          text,
    open_proposal text,
    primary key (partition, shop, entity, variant_id)
) strict, without rowid;

-- Who dispatches the effects of a partition of the decisions. Never deleted.
create table dispatch_owner (
    partition   integer primary key,
    epoch       integer not null,
    node        text not null,
    acquired_at integer not null
) strict;

-- The ledger.
create table effect (
    seq                integer primary key autoincrement,
    decision_id        text not null,
    route_id           text not null,
    handler            text not null,
    organisation       text not null,
    shop               text not null,
    order_key          text not null,
    partition          integer not null,
    decision_offset    integer not null,
    decision           text not null,
    route              text not null,
    due_at             integer not null,
    state              text not null check (state in ('planned', 'sending', 'done', 'ambiguous', 'failed')),
    attempts           integer not null default 0,
    request            blob,
    response           text,
    reference          text,
    possible_duplicate integer not null default 0,
    updated_at         integer not null,
    sender_epoch       integer,
    unique (decision_id, route_id),
    check ((state = 'sending') = (sender_epoch is not null))
) strict;
-- Partial, so that the done rows of years cost a claim nothing.
create index effect_due on effect (handler, due_at, decision_offset, seq) where state in ('planned', 'ambiguous');
create index effect_sending on effect (handler, partition) where state = 'sending';
create index effect_open on effect (handler, order_key, decision_offset, seq)
    where state in ('planned', 'sending', 'ambiguous');
create index effect_failed on effect (handler, seq) where state = 'failed';

create table organisation (
    name     text primary key,
    added_at integer not null
) strict;
insert into organisation values ('default', cast(unixepoch('subsec') * 1000000 as integer));

create table shop (
    shop            text primary key,
    organisation    text not null,
    kind            text not null check (kind in ('shopify', 'store', 'generic')),
    -- Sealed, the newest first: a JSON array of hexadecimal strings.
    webhook_secrets text not null,
    access_token    blob,
    added_at        integer not null
) strict;

create table token (
    seq          integer primary key autoincrement,
    id           text not null unique,
    hash         blob not null unique,
    organisation text not null,
    role         text not null,
    -- A JSON array.
    shops        text not null,
    created_at   integer not null,
    revoked_at   integer
) strict;

create table rule_version (
    organisation text primary key,
    version      integer not null,
    digest       blob not null
) strict;
