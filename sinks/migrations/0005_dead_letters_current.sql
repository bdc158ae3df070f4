-- One row a dead letter, as its last record says: a redriven one has two rows in dead_letters, for they are events.
-- The records of one dead letter are in one partition of the topic, so their offsets have its order.
CREATE VIEW IF NOT EXISTS {database}.dead_letters_current
AS SELECT * FROM {database}.dead_letters ORDER BY log_offset DESC LIMIT 1 BY dead_letter_id;
