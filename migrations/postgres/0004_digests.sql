-- Digests: rows that go out as one effect. Those with the same text in `digest` go out together; once they have been gathered, `leader`
-- names the row (its seq) that is sent for them, and their state is the leader's.
alter table effect add column digest text;
alter table effect add column leader bigint;
create index effect_digest on effect (handler, digest) where digest is not null and leader is null and state = 'planned';
create index effect_leader on effect (leader) where leader is not null;
