// Package chaos runs Specwatch's executables against real PostgreSQL servers
// under faults, and compares what each client received with the table. It only
// uses the interfaces of operators and clients: command line, HTTP,
// WebSocket, the plugin protocol and the columns of events.
package chaos
