//! Lists of public rooms: which of them somebody is looking for, page by page. Pure.

use ruma::{
    directory::{Filter, RoomTypeFilter},
    room::RoomSummary,
};

use super::messages::{DirectoryError, PublicRooms};
use crate::config::limits;

/// Rooms of a page where nobody says how many.
const PAGE: usize = 100;

fn is_wanted(room: &RoomSummary, filter: &Filter) -> bool {
    let kinds = &filter.room_types;
    let kind = RoomTypeFilter::from(room.room_type.clone());
    if !kinds.is_empty() && !kinds.contains(&kind) {
        return false;
    }
    let Some(term) = filter.generic_search_term.as_deref() else { return true };
    let term = term.to_lowercase();
    let alias = room.canonical_alias.as_deref().map(ruma::RoomAliasId::as_str);
    let shown = [room.name.as_deref(), room.topic.as_deref(), alias];
    shown.into_iter().flatten().any(|text| text.to_lowercase().contains(&term))
}

/// Returns a page of those who are looked for. A token says how many rooms come before it.
pub(super) fn page(
    mut rooms: Vec<RoomSummary>,
    filter: &Filter,
    limit: Option<u64>,
    since: Option<&str>,
) -> Result<PublicRooms, DirectoryError> {
    let unknown = DirectoryError::BadRequest("since is no token of this server");
    let from = since.map_or(Ok(0), str::parse::<usize>).map_err(|_| unknown)?;
    let limit = limit.map_or(PAGE, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let limit = limit.min(limits::PAGE);
    rooms.retain(|room| is_wanted(room, filter));
    rooms.sort_by(|one, other| {
        let by_size = other.num_joined_members.cmp(&one.num_joined_members);
        by_size.then_with(|| one.room_id.cmp(&other.room_id))
    });
    let total = rooms.len();
    let end = from.saturating_add(limit).min(total);
    Ok(PublicRooms {
        chunk: rooms.into_iter().skip(from).take(limit).map(Into::into).collect(),
        next_batch: (end < total && limit > 0).then(|| end.to_string()),
        prev_batch: (from > 0).then(|| from.saturating_sub(limit).to_string()),
        total_room_count_estimate: Some(total as u64),
    })
}

#[cfg(test)]
mod tests {
    use ruma::{UInt, room::JoinRuleSummary};

    use super::*;

    fn room(id: &str, members: u32, name: &str) -> RoomSummary {
        let id = format!("!{id}:x").try_into().unwrap();
        let members = UInt::from(members);
        let mut room = RoomSummary::new(id, JoinRuleSummary::Public, false, members, false);
        room.name = Some(name.to_owned());
        room
    }

    fn names(page: &PublicRooms) -> Vec<&str> {
        page.chunk.iter().filter_map(|room| room.name.as_deref()).collect()
    }

    #[test]
    fn the_largest_come_first_page_by_page() {
        let rooms = || vec![room("a", 2, "two"), room("b", 9, "nine"), room("c", 2, "two more")];
        let read = |limit, since| page(rooms(), &Filter::new(), limit, since).unwrap();
        let first = read(Some(2), None);
        assert_eq!(names(&first), ["nine", "two"]);
        assert_eq!((first.next_batch.as_deref(), first.prev_batch.as_deref()), (Some("2"), None));
        let second = read(Some(2), Some("2"));
        assert_eq!(names(&second), ["two more"]);
        assert_eq!((second.next_batch, second.prev_batch.as_deref()), (None, Some("0")));
        assert_eq!(first.total_room_count_estimate, Some(3));
        assert!(names(&read(None, Some("7"))).is_empty());
        assert!(read(Some(0), None).next_batch.is_none(), "or a client would ask for ever");
        assert!(page(rooms(), &Filter::new(), None, Some("x")).is_err());
    }

    #[test]
    fn rooms_are_found_by_what_they_show_and_by_kind() {
        let mut space = room("s", 1, "A space");
        space.room_type = Some(ruma::room::RoomType::Space);
        let mut tea = room("t", 1, "Tea");
        tea.topic = Some("All about OOLONG".to_owned());
        let found = |change: fn(&mut Filter)| {
            let mut filter = Filter::new();
            change(&mut filter);
            let page = page(vec![space.clone(), tea.clone()], &filter, None, None).unwrap();
            names(&page).join(",")
        };
        assert_eq!(found(|filter| filter.generic_search_term = Some("oolong".into())), "Tea");
        assert_eq!(found(|filter| filter.generic_search_term = Some("coffee".into())), "");
        assert_eq!(found(|filter| filter.room_types = vec![RoomTypeFilter::Space]), "A space");
        assert_eq!(found(|filter| filter.room_types = vec![RoomTypeFilter::Default]), "Tea");
    }
}
