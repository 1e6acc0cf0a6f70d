package store

import "github.com/jackc/pgx/v5"

// ConnConfig is what the connections of the store are made with.
func (s *Store) ConnConfig() *pgx.ConnConfig { return s.config.ConnConfig }
