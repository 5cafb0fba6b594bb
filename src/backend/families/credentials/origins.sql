-- The origins that a token was given for are sealed together with it. A row written before has only its token in `sealed`;
-- its `base_urls` are the settings that were in force when the table got this column, and its token is for those. They are
-- null once the row is sealed anew. A base URL that is changed later gets no token, even if the key file was missing until then.
ALTER TABLE credentials ADD COLUMN base_urls TEXT;
UPDATE credentials SET base_urls = (
    SELECT json_group_object(settings.key, settings.value) FROM settings
    WHERE settings.key IN ('ai.' || credentials.key || '.baseUrl', 'imagegen.' || credentials.key || '.baseUrl')
);
