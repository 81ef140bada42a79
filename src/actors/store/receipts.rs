//! Receipts: how far somebody has read, which only goes forward.
//!
//! What "forward" is the timeline says, as it is here: neither the time of a receipt nor the order
//! in which receipts come orders anything, since both are others' word.

use ruma::EventId;

use super::{
    KeepReceipt, Receipt, ReceiptPlace, Row, StoreError, database::Rows, events::read_event,
    rooms::room_number, rows, schema::hash_of,
};
use crate::proto::stream::Order;

impl Receipt {
    /// Returns its row.
    pub(super) fn row(&self, room_id: &ruma::RoomId) -> Row {
        Row::Receipt(
            room_id.to_owned(),
            self.user_id.clone(),
            self.receipt_type.clone(),
            self.thread_id.clone(),
        )
    }
}

/// Tells where the event of a receipt stands beside that of the one which is kept.
pub(super) fn judge(rows: &impl Rows, ask: &KeepReceipt) -> Result<ReceiptPlace, StoreError> {
    let Some(room) = room_number(rows, &ask.room_id)? else {
        return Ok(ReceiptPlace::Unknown);
    };
    let order_of = |event_id: &EventId| -> Result<Option<Order>, StoreError> {
        let Some(hash) = hash_of(event_id) else { return Ok(None) };
        Ok(read_event(rows, room, &hash)?.and_then(|record| record.order))
    };
    let Some(order) = order_of(&ask.receipt.event_id)? else {
        return Ok(ReceiptPlace::Unknown);
    };
    let Some(kept) = rows.get(&rows::key(&ask.receipt.row(&ask.room_id)))? else {
        return Ok(ReceiptPlace::Ahead);
    };
    let kept: Receipt =
        serde_json::from_slice(&kept).map_err(|_| StoreError::Corrupt { what: "receipt" })?;
    // 0.1.0 kept receipts of events that were not here: any other one is better.
    let is_ahead = order_of(&kept.event_id)?.is_none_or(|read| read < order);
    Ok(if is_ahead { ReceiptPlace::Ahead } else { ReceiptPlace::Behind })
}
