-- Milliseconds until the first content of the answer was in hand.

alter table requests add column first_ms real;
