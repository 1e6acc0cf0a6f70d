package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/event"
)

// ConnConfig is what the connections of the store are made with.
func (s *Store) ConnConfig() *pgx.ConnConfig { return s.config.ConnConfig }

// Statements are those of every read.
func (s *Store) Statements() []*string { return []*string{&s.sinceSQL, &s.openSQL, &s.historySQL} }

// InsertOn writes events on a connection of the test's.
func (s *Store) InsertOn(ctx context.Context, q querier, events []event.Event) (event.Receipt, error) {
	return s.insert(ctx, q, lockWait, events)
}
