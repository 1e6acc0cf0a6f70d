//go:build unix

package main

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/specwatch/specwatch/pkg/postgrestest"
)

func TestMirrorFromPreviewToRemoval(t *testing.T) {
	t.Parallel()
	a := place(t, postgrestest.Database(t))
	conn, err := pgx.Connect(t.Context(), a.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{
		`CREATE TABLE jobs (id bigserial PRIMARY KEY, state text, created timestamp DEFAULT now(), run text, task text)`,
		`INSERT INTO jobs (state, run, task) VALUES ('running', 'night', 'login'), ('done', 'night', 'login'), ('queued', NULL, 'x')`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, errs := a.run(t, "mirror", "jobs"); code != 1 || !strings.Contains(errs, "specwatch migrate") {
		t.Errorf("without a schema: %d, %s", code, errs)
	}
	if code, _, errs := a.run(t, "migrate"); code != 0 {
		t.Fatal(errs)
	}
	mapping := strings.Fields("mirror jobs --kind state --at created --time-zone UTC --session run --spec task --kinds running=spec_started,done=spec_completed")
	for _, c := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"mirror"}, 0, []string{"no table is mirrored\n"}},
		{[]string{"mirror", "--preview"}, 2, []string{"name the table"}},
		{[]string{"mirror", "jobs"}, 2, []string{"--kind: table public.jobs has no column named kind", "id, state, created, run, task"}},
		{append(mapping[:len(mapping):len(mapping)], "--preview"), 0, []string{`{"kind":"spec_started","at":`, "3 rows of jobs: 2 can be mapped, 1 cannot\n  1: its session is null or empty (such as mirror:public.jobs:3)\n"}},
		{[]string{"mirror"}, 0, []string{"no table is mirrored\n"}},
		{append(mapping[:len(mapping):len(mapping)], "--backfill=false"), 0, []string{"every insert into public.jobs is an event from now on\n"}},
		{[]string{"mirror"}, 0, []string{"public.jobs: the rows that were there before are not copied"}},
		{[]string{"mirror", "jobs"}, 0, []string{"3 rows read: 2 became events now, 0 were events already", "1 could not be mapped"}},
		{[]string{"mirror"}, 0, []string{"public.jobs: its rows were copied ", ", 1 rows not mapped\n  1: its session is null or empty"}},
		{[]string{"mirror", "jobs", "--remove"}, 0, []string{"jobs is not mirrored any more"}},
		{[]string{"mirror", "jobs", "--remove"}, 1, []string{"not mirrored"}},
	} {
		code, out, errs := a.run(t, c.args...)
		if code != c.code {
			t.Errorf("%v: exit code %d: %s", c.args, code, errs)
		}
		for _, says := range c.says {
			if !strings.Contains(out+errs, says) {
				t.Errorf("%v does not say %q: %s%s", c.args, says, out, errs)
			}
		}
	}
}
