// Package migrations is the schema of the events as SQL files. Package schema
// runs them; the store asks for the latest version, to compare it with that of
// the database.
package migrations

import (
	"embed"
	"maps"
	"slices"
	"strconv"
	"strings"
)

//go:embed *.sql
var files embed.FS

// names are those of the files by their version.
func names() map[int64]string {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic(err) // they are embedded
	}
	names := map[int64]string{}
	for _, entry := range entries {
		number, _, _ := strings.Cut(entry.Name(), "_")
		version, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic(err)
		}
		names[version] = entry.Name()
	}
	return names
}

// All returns the SQL of each migration by its version.
func All() map[int64]string {
	all := map[int64]string{}
	for version, name := range names() {
		text, err := files.ReadFile(name)
		if err != nil {
			panic(err)
		}
		all[version] = string(text)
	}
	return all
}

// Latest is the version that this program knows.
func Latest() int64 { return slices.Max(slices.Collect(maps.Keys(names()))) }
