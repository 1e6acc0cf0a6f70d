// Package questions answers what panels, alert rules and the overview ask about
// stored events: what happened in a range of time, and what the state is now.
// It writes no events. Answers over time come from the rollups, which package
// maintenance writes, and from the events that these lack.
package questions

import "github.com/specwatch/specwatch/pkg/store"

// Questions can be asked about the events of one store.
type Questions struct{ store *store.Store }

// To returns the questions to a store.
func To(s *store.Store) Questions { return Questions{s} }
