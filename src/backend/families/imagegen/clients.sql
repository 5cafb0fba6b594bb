-- Which client made an entry or a group, until the next start: then all of them count as made by one.
ALTER TABLE image_entries ADD COLUMN client TEXT;
ALTER TABLE image_groups ADD COLUMN client TEXT;
