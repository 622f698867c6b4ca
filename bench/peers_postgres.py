"""The package's view on PostgreSQL, by itself: importing it needs psycopg-pool, which nothing else here does."""

from typing import Any

from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder

from bench.peers import ADD, TABLE, TOTAL, MinutesView


class PostgresMinutes(PostgresTrackingRecorder, MinutesView):
    """On PostgreSQL."""

    def _create_table(self, curs: Any) -> None:
        super()._create_table(curs)
        curs.execute(TABLE)

    def add(self, volunteer_id: str, minutes: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(ADD.format(mark="%s"), (volunteer_id, minutes))

    def total(self) -> int:
        with self.datastore.transaction(commit=False) as cursor:
            cursor.execute(TOTAL)
            row: Any = cursor.fetchone()
            return int(row["total"])
