package state

// MaxSessions is how many sessions a Summary holds.
const MaxSessions = maxSessions
