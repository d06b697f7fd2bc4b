-- What became of each proposal, as people see it: a projection of the decisions topic, written with the ledger's rows.
create table reorders (
    proposal_id  uuid primary key,
    organisation text not null,
    -- The decision's log key.
    shop         text not null,
    -- Null where the rule's scope is sku.
    variant_id   text,
    partition    integer not null,
    -- Offset of the causing fact, and of the fact of the last change.
    caused_by    bigint not null,
    version      bigint not null,
    -- As recorded; a proposed one with a route done shows as sent.
    state        text not null,
    vendor       text,
    opened_at    timestamptz not null,
    -- JSON: the opening decision, and the last change.
    decision     text not null,
    change       text,
    updated_at   timestamptz not null
);
create index reorders_newest on reorders (organisation, opened_at desc, proposal_id desc);
create index reorders_shop on reorders (shop, opened_at desc, proposal_id desc);
create index reorders_vendor on reorders (organisation, vendor, opened_at desc, proposal_id desc);
-- Partial, so that the closed ones of years cost a look at what is open nothing.
create index reorders_open on reorders (organisation, opened_at desc, proposal_id desc)
    where state in ('proposed', 'sent', 'acknowledged', 'ordered', 'in_transit');

-- Of a row that tells a change: the route that has told the proposal, and the change as JSON.
alter table effect add column updates text;
alter table effect add column change text;
create index effect_reference on effect (handler, reference) where reference is not null;
