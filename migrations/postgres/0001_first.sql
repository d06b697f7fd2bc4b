-- The store on Postgres. A migration that has been released is never edited: the next change is a new file
-- (and a line in src/adapters/postgres/connect.rs).

-- One row; the id binds a consumer group to this store.
create table store_identity (
    only_row   boolean primary key default true check (only_row),
    store_id   uuid not null,
    created_at timestamptz not null default now()
);
insert into store_identity (store_id) values (gen_random_uuid());

-- Who owns a partition of the facts, and where folding starts. Never deleted: epochs only grow.
create table partition_owner (
    partition        integer primary key,
    epoch            bigint not null,
    node             text not null,
    acquired_at      timestamptz not null default now(),
    -- The checkpoint; null until the first save.
    facts_offset     bigint,
    decisions_offset bigint,
    check ((facts_offset is null) = (decisions_offset is null))
);

create table snapshot (
    partition     integer not null,
    shop          text not null,
    -- 0 shard, 1 shop, 2 variant
    entity        smallint not null,
    -- Bits of an unsigned 64-bit number (ids over 2^63 read as negative); 0 unless the entity is a variant.
    variant_id    bigint not null,
    fact_offset   bigint not null,
    epoch         bigint not null,
    version       smallint not null,
    checksum      bigint not null,
    state         bytea not null,
    -- For people who query in SQL; the program never reads these.
    sku           text,
    vendor        text,
    available     bigint,
    risk          text,
    open_proposal uuid,
    primary key (partition, shop, entity, variant_id)
) with (
    -- Room on each page, so that an update stays on it and touches no index.
    fillfactor = 75,
    autovacuum_vacuum_scale_factor = 0.1
);
-- Binary states compress badly; do not spend the time.
alter table snapshot alter column state set storage external;

-- Who dispatches the effects of a partition of the decisions. Never deleted.
create table dispatch_owner (
    partition   integer primary key,
    epoch       bigint not null,
    node        text not null,
    acquired_at timestamptz not null default now()
);

-- The ledger.
create table effect (
    seq                bigint generated always as identity primary key,
    decision_id        uuid not null,
    route_id           text not null,
    handler            text not null,
    organisation       text not null,
    shop               text not null,
    order_key          text not null,
    partition          integer not null,
    decision_offset    bigint not null,
    decision           text not null,
    route              text not null,
    due_at             timestamptz not null,
    state              text not null check (state in ('planned', 'sending', 'done', 'ambiguous', 'failed')),
    attempts           integer not null default 0,
    request            bytea,
    response           text,
    reference          text,
    possible_duplicate boolean not null default false,
    updated_at         timestamptz not null,
    sender_epoch       bigint,
    unique (decision_id, route_id),
    check ((state = 'sending') = (sender_epoch is not null))
);
-- Partial, so that the done rows of years cost a claim nothing.
create index effect_due on effect (handler, due_at, decision_offset, seq) where state in ('planned', 'ambiguous');
create index effect_sending on effect (handler, partition) where state = 'sending';
create index effect_open on effect (handler, order_key, decision_offset, seq)
    where state in ('planned', 'sending', 'ambiguous');
create index effect_failed on effect (handler, seq) where state = 'failed';

create table organisation (
    name     text primary key,
    added_at timestamptz not null
);
insert into organisation (name, added_at) values ('default', now());

create table shop (
    shop            text primary key,
    organisation    text not null,
    kind            text not null check (kind in ('shopify', 'store', 'generic')),
    -- Sealed, the newest first.
    webhook_secrets bytea[] not null,
    access_token    bytea,
    added_at        timestamptz not null
);

create table token (
    seq          bigint generated always as identity primary key,
    id           text not null unique,
    hash         bytea not null unique,
    organisation text not null,
    role         text not null,
    shops        text[] not null,
    created_at   timestamptz not null,
    revoked_at   timestamptz
);

create table rule_version (
    organisation text primary key,
    version      bigint not null,
    digest       bytea not null
);
