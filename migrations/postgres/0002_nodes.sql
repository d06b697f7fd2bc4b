-- Where nodes are reached, so that each can send a query to the owner of a partition (partition_owner.node).
create table node (
    name         text primary key,
    -- Null: others cannot reach it.
    address      text,
    announced_at timestamptz not null default now()
);

-- When the checkpoint was last written: how old an answer from snapshots alone may be.
alter table partition_owner add column saved_at timestamptz;
