-- For statements whose time must not grow with the session.
CREATE INDEX code_entries_by_time ON code_entries (session, created_at) WHERE role IS NOT NULL;
CREATE INDEX code_restore_points_in_order ON code_restore_points (session, seq);
