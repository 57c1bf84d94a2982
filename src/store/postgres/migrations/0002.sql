-- Which sealing keys a replica has, the one that it seals under first: no replica may seal under a key that another
-- living one has not got. Absent where a version before this one has joined.
ALTER TABLE members ADD COLUMN keys text[];
-- Under which key everything was sealed anew last. Who has not got it becomes no member.
ALTER TABLE installation ADD COLUMN sealed_under text;
