-- How a site's answers leave the edges, as its provider wrote it; none: only https, and otherwise as they are.
alter table sites add column delivery jsonb;
