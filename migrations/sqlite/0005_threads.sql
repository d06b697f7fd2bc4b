-- What a handler has told about a variant, for kinds that refer to it (Slack's threads).
create index effect_told on effect (handler, order_key, seq) where reference is not null;
