// Package mirror makes events of the rows of another program's tables: of those
// that it inserts, by a trigger, and of those that a table already holds.
package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/store"
)

// Mapping says how a row of another program's table becomes an event. All but
// Kinds and TimeZone are SQL expressions over the table's columns; names
// outside pg_catalog need their schema.
type Mapping struct {
	Kind     string            `json:"kind"`
	At       string            `json:"at"`
	Session  string            `json:"session"`
	Spec     string            `json:"spec,omitempty"`
	Data     string            `json:"data,omitempty"`
	Key      string            `json:"key,omitempty"`   // what identifies a row; empty: no column does
	Where    string            `json:"where,omitempty"` // of rows that are to become events
	Kinds    map[string]string `json:"kinds,omitempty"` // kinds of the table and the event's kind for each
	TimeZone string            `json:"timeZone,omitempty"`
}

// Mirror is a table whose inserts become events.
type Mirror struct {
	Source   string // schema.table
	Mapping  Mapping
	Active   bool       // the table has the trigger
	Filled   *time.Time // when Fill ended; nil: never
	Unmapped int64
	Reasons  []Reason // why, the most frequent first, at most maxReasons

	id      int
	called  string   // what the keys of its events begin with: the table's name when it was mirrored
	upTo    *int64   // of a table that version 0.2 adopted: the greatest id then
	granted string   // the role that was granted rights for it; empty: none was
	rights  []string // their names, as in mirrorRights
}

// recorded is the column mapping of specwatch_mirrors. Called is missing if it
// is the same as the column source. Rights is missing if no role was granted
// any, or if an older version granted all of mirrorRights.
type recorded struct {
	Mapping
	Called string   `json:"called,omitempty"`
	Rights []string `json:"rights,omitempty"`
}

// Reason is why rows did not become events.
type Reason struct {
	Text    string
	Rows    int64
	Example string // the key of one of them
}

const maxReasons = 20

// Preview is what a mapping would make of the rows that a table holds.
type Preview struct {
	Mapping Mapping       // with empty fields filled from the table
	Events  []event.Event // of the first rows
	Rows    int64         // that are to become events
	Reasons []Reason      // why some would not
}

// previewRows is how many events a preview shows.
const previewRows = 10

// source is a table of another program.
type source struct {
	oid          uint32
	schema, name string
	owner        string
	partitioned  bool              // or a partition: only triggers for each row reach all inserts
	columns      []string          // in their order
	virtual      map[string]string // virtual generated columns (PostgreSQL 18) and their expressions
	zoned        map[string]bool   // columns of type timestamptz
	key          []string          // columns that identify a row; may be empty
}

func (t source) quoted() string { return pgx.Identifier{t.schema, t.name}.Sanitize() }
func (t source) String() string { return t.schema + "." + t.name }

// rows returns what a query over the table's own rows has after FROM.
func (t source) rows() string {
	if t.partitioned {
		return t.quoted()
	}
	return "ONLY " + t.quoted() // rows of tables that inherit from it do not fire its triggers
}

// computed returns what "from", whose rows are new ones in a trigger, is
// replaced by. PostgreSQL does not compute virtual generated columns there, so
// the query does.
func (t source) computed(from string) string {
	if len(t.virtual) == 0 {
		return from
	}
	columns := make([]string, len(t.columns))
	for i, name := range t.columns {
		columns[i] = pgx.Identifier{name}.Sanitize()
		if expression, ok := t.virtual[name]; ok {
			columns[i] = "(" + expression + ") AS " + columns[i]
		}
	}
	return "(SELECT " + strings.Join(columns, ", ") + " FROM " + from + " AS specwatch_stored)"
}

// findSource looks a table up by its name, with or without the quotes that SQL
// needs.
func findSource(ctx context.Context, tx pgx.Tx, table string) (source, error) {
	var t source
	var kind string
	var temporary, partition, system bool
	const columns = `
		SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, pg_get_userbyid(c.relowner)::text, c.relpersistence = 't', c.relispartition, n.nspname IN ('pg_catalog', 'information_schema')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace `
	var err error
	for _, where := range []string{
		`WHERE pg_table_is_visible(c.oid) AND c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')`,
		`WHERE n.nspname || '.' || c.relname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')`,
		`WHERE c.oid = to_regclass($1)`,
	} {
		err = tx.QueryRow(ctx, columns+where, table).Scan(&t.oid, &t.schema, &t.name, &kind, &t.owner, &temporary, &partition, &system)
		if !errors.Is(err, pgx.ErrNoRows) {
			break
		}
	}
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows), errors.As(err, &pg) && pg.Code[:2] == "42":
		return t, store.NewProblem(store.NoTable, nil, "there is no table %q; write it as name or schema.name", table)
	case err != nil:
		return t, err
	case kind == "v" || kind == "m":
		return t, store.NewProblem(store.NoTable, nil, "%q is a view, into which nothing is inserted; mirror the table below it", table)
	case kind != "r" && kind != "p" || temporary || system:
		return t, store.NewProblem(store.NoTable, nil, "%q is not a table that can be mirrored: it must be an ordinary or a partitioned one that is neither temporary nor PostgreSQL's own", table)
	}
	t.partitioned = kind == "p" || partition
	if err = t.readColumns(ctx, tx); err == nil {
		err = t.readKey(ctx, tx)
	}
	return t, err
}

func (t *source) readColumns(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `
		SELECT a.attname::text, 'timestamptz'::regtype IN (y.oid, y.typbasetype), CASE WHEN a.attgenerated = 'v' THEN pg_get_expr(d.adbin, d.adrelid) END
		FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, t.oid)
	if err != nil {
		return err
	}
	t.virtual, t.zoned = map[string]string{}, map[string]bool{}
	var name string
	var zoned bool
	var expression *string
	_, err = pgx.ForEachRow(rows, []any{&name, &zoned, &expression}, func() error {
		t.columns = append(t.columns, name)
		t.zoned[name] = zoned
		if expression != nil {
			t.virtual[name] = *expression
		}
		return nil
	})
	return err
}

// readKey takes as the key the primary key, else a unique index over columns
// that are never null, else an identity or serial column. An index may have
// INCLUDE columns after its key columns.
func (t *source) readKey(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `
		SELECT a.attname::text FROM (
		    SELECT k.columns FROM pg_index i, LATERAL (SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1] AS columns) k
		    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND NOT 0 = ANY (k.columns)
		      AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum = ANY (k.columns) AND NOT a.attnotnull)
		    ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
		) i, unnest(i.columns) WITH ORDINALITY AS k (attnum, n) JOIN pg_attribute a ON a.attrelid = $1 AND a.attnum = k.attnum
		ORDER BY k.n`, t.oid)
	if err == nil {
		t.key, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil || len(t.key) > 0 {
		return err
	}
	rows, err = tx.Query(ctx, `
		SELECT a.attname::text FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND (a.attidentity <> '' OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%')
		ORDER BY a.attnum LIMIT 1`, t.oid)
	if err == nil {
		t.key, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	return err
}

// complete fills empty fields of a mapping with the table's columns of the same
// names, and checks all expressions against the table. What is wrong with a
// field is returned as *event.FieldError.
func (m Mapping) complete(ctx context.Context, tx pgx.Tx, t source) (Mapping, expressions, error) {
	var e expressions
	if err := m.fill(t); err != nil {
		return m, e, err
	}
	for from, to := range m.Kinds {
		if k := event.Kind(to); !k.Known() && !k.Custom() {
			return m, e, mappingErrorf("kinds", "%q, for %q, is no kind of an event; it is one of %v, or a name with a dot", to, from, event.Kinds)
		}
	}
	zone := cmp.Or(m.TimeZone, "UTC")
	if _, err := tx.Exec(ctx, `SELECT now() AT TIME ZONE $1`, zone); err != nil {
		return m, e, mappingErrorf("time-zone", "PostgreSQL knows no time zone %q; name one such as Europe/Berlin", zone)
	}
	if err := evaluateAsTrigger(ctx, tx, zone); err != nil {
		return m, e, err
	}
	e.table, e.zone, e.kinds = t, zone, m.Kinds
	typed := func(field, text string) (uint32, error) { return typeOf(ctx, tx, t, field, text) }
	for _, set := range []func(Mapping, typing) error{e.setTexts, e.setAt, e.setData, e.setWhere} {
		if err := set(m, typed); err != nil {
			return m, e, err
		}
	}
	// This finds what no expression shows alone, such as an aggregate.
	_, err := describe(ctx, tx, e.mapSQL("(SELECT * FROM "+t.quoted()+")"))
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code[:2] == "42" && pg.Code != "42501" {
		err = mappingErrorf("kind", "the expressions do not work together: %s", pg.Message)
	}
	return m, e, err
}

// fill sets empty fields to the table's columns of the same names, and an empty
// key to what identifies its rows.
func (m *Mapping) fill(t source) error {
	for _, f := range []struct {
		name     string
		text     *string
		required bool
	}{{"kind", &m.Kind, true}, {"at", &m.At, true}, {"session", &m.Session, true}, {"spec", &m.Spec, false}, {"data", &m.Data, false}} {
		if *f.text == "" && slices.Contains(t.columns, f.name) {
			*f.text = pgx.Identifier{f.name}.Sanitize()
		}
		if *f.text == "" && f.required {
			return mappingErrorf(f.name, "table %s has no column named %s; say with an SQL expression over its columns (%s) what it is", t, f.name, strings.Join(t.columns, ", "))
		}
	}
	if m.Key == "" && len(t.key) > 0 {
		names := make([]string, len(t.key))
		for i, column := range t.key {
			names[i] = pgx.Identifier{column}.Sanitize()
			if t.zoned[column] && len(t.key) > 1 {
				names[i] = inUTC(names[i])
			}
		}
		if m.Key = names[0]; len(names) > 1 {
			m.Key = "ROW(" + strings.Join(names, ", ") + ")"
		}
	}
	return nil
}

// typing asks PostgreSQL for the type of a field's expression.
type typing func(field, text string) (uint32, error)

func (e *expressions) setTexts(m Mapping, typed typing) error {
	for _, f := range []struct {
		name, text string
		into       *string
	}{{"kind", m.Kind, &e.kind}, {"session", m.Session, &e.session}, {"spec", cmp.Or(m.Spec, "''"), &e.spec}, {"key", cmp.Or(m.Key, "NULL"), &e.key}} {
		if oid, err := typed(f.name, f.text); err != nil {
			return err
		} else if oid == pgtype.RecordOID && f.name != "key" {
			return mappingErrorf(f.name, "%s is not one value", f.text)
		} else if oid == pgtype.TimestamptzOID && f.name == "key" {
			*f.into = inUTC(f.text)
			continue
		}
		*f.into = "(" + f.text + "\n)::text"
	}
	return nil
}

func (e *expressions) setAt(m Mapping, typed typing) error {
	oid, err := typed("at", m.At)
	switch {
	case err != nil:
		return err
	case oid == pgtype.TimestamptzOID:
		e.at = "(" + m.At + "\n)"
	case oid != pgtype.TimestampOID && oid != pgtype.DateOID:
		return mappingErrorf("at", "%s is not a time: a text is one as (…)::timestamptz, seconds since 1970 are one as to_timestamp(…)", m.At)
	case m.TimeZone == "":
		return mappingErrorf("time-zone", "%s is a time without its zone; say which zone its values are of, such as Europe/Berlin or UTC", m.At)
	default:
		e.at = "((" + m.At + "\n)::timestamp AT TIME ZONE " + quote(e.zone) + ")"
	}
	return nil
}

func (e *expressions) setData(m Mapping, typed typing) error {
	e.data = "'{}'::jsonb"
	if m.Data == "" {
		return nil
	}
	switch oid, err := typed("data", m.Data); {
	case err != nil:
		return err
	case oid == pgtype.JSONOID || oid == pgtype.JSONBOID:
		e.data = "(" + m.Data + "\n)::jsonb"
	default:
		e.data = "to_jsonb(" + m.Data + "\n)"
	}
	return nil
}

func (e *expressions) setWhere(m Mapping, typed typing) error {
	e.where = "true"
	if m.Where == "" {
		return nil
	}
	if oid, err := typed("where", m.Where); err != nil {
		return err
	} else if oid != pgtype.BoolOID {
		return mappingErrorf("where", "%s is neither true nor false", m.Where)
	}
	e.where = "(" + m.Where + "\n)"
	return nil
}

// inUTC returns SQL for the text of a timestamptz in a key, as PostgreSQL
// prints it in UTC. In the mapping's time zone the key would change with the
// mapping, and a fill would write the event again.
func inUTC(text string) string { return "(((" + text + "\n) AT TIME ZONE 'UTC')::text || '+00')" }

func mappingErrorf(field, format string, args ...any) error {
	return &event.FieldError{Field: field, Detail: fmt.Sprintf(format, args...)}
}

// typeOf asks PostgreSQL for the type of an expression over the table.
func typeOf(ctx context.Context, tx pgx.Tx, t source, field, text string) (uint32, error) {
	described, err := describe(ctx, tx, fmt.Sprintf("SELECT (%s\n) FROM (SELECT * FROM %s) AS %s", text, t.quoted(), pgx.Identifier{t.name}.Sanitize()))
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code[:2] == "42" && pg.Code != "42501":
		return 0, mappingErrorf(field, "%s does not work on table %s: %s; its columns are %s", text, t, pg.Message, strings.Join(t.columns, ", "))
	case err != nil:
		return 0, err
	case len(described.Fields) != 1 || len(described.ParamOIDs) > 0:
		return 0, mappingErrorf(field, "%s is not one SQL expression", text)
	}
	return described.Fields[0].DataTypeOID, nil
}

// describe parses a statement without running it.
func describe(ctx context.Context, tx pgx.Tx, sql string) (*pgconn.StatementDescription, error) {
	nested, err := tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer nested.Rollback(ctx) //nolint:errcheck // nothing was changed
	return nested.Prepare(ctx, "", sql)
}

// pinned are the settings, besides search_path and timezone, with which
// expressions are evaluated. The session of a program may have others, with
// which PostgreSQL prints values, and so keys, differently, or reads the
// literals in the functions differently.
var pinned = []struct{ name, value string }{
	{"datestyle", "ISO, MDY"}, {"intervalstyle", "postgres"}, {"bytea_output", "hex"}, {"extra_float_digits", "1"},
	{"lc_monetary", "C"}, {"standard_conforming_strings", "on"},
}

// evaluateAsTrigger sets, for this transaction, the settings with which the
// trigger's function evaluates expressions.
func evaluateAsTrigger(ctx context.Context, tx pgx.Tx, zone string) error {
	sql := `SELECT set_config('search_path', 'pg_catalog, pg_temp', true), set_config('timezone', $1, true), set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`
	for _, setting := range pinned {
		sql += fmt.Sprintf(", set_config(%s, %s, true)", quote(setting.name), quote(setting.value))
	}
	_, err := tx.Exec(ctx, sql, zone)
	return err
}

// expressions is a mapping that was checked against its table.
type expressions struct {
	table                                     source
	called                                    string // as in Mirror
	kind, at, session, spec, data, key, where string
	zone                                      string
	kinds                                     map[string]string
}

// prefix returns what the keys of the table's events begin with.
func (e expressions) prefix() string { return "mirror:" + cmp.Or(e.called, e.table.String()) + ":" }

// keySQL returns SQL for the event's key. A key that is too long is replaced by
// its hash.
func (e expressions) keySQL() string {
	whole := quote(e.prefix()) + " || " + e.key
	return fmt.Sprintf("CASE WHEN octet_length(%[1]s) > %[2]d THEN %[3]s || md5(%[1]s) ELSE %[1]s END", whole, event.MaxNameBytes, quote("mirror:md5:"))
}

// mapSQL returns a query of the rows of "from" as events. "problem" is why a
// row cannot become an event, else NULL.
func (e expressions) mapSQL(from string) string {
	var kinds strings.Builder
	for _, name := range slices.Sorted(maps.Keys(e.kinds)) {
		fmt.Fprintf(&kinds, "WHEN kind = %s THEN %s ", quote(name), quote(e.kinds[name]))
	}
	known := make([]string, len(event.Kinds))
	for i, k := range event.Kinds {
		known[i] = quote(string(k))
	}
	long := func(column string) string {
		return fmt.Sprintf("WHEN octet_length(%[1]s) > %[2]d THEN 'its %[1]s has more than %[2]d bytes'\n", column, event.MaxNameBytes)
	}
	return `SELECT kind, at, session, spec, data, key,
	CASE WHEN kind IS NULL OR kind = '' THEN 'its kind is null or empty'
	     WHEN session IS NULL OR session = '' THEN 'its session is null or empty'
	     WHEN at IS NULL THEN 'its time is null'
	     WHEN at < '1970-01-01 00:00:00+00' THEN 'its time lies before 1970'
	     WHEN at > now() + interval '` + fmt.Sprint(event.MaxAhead.Hours()) + ` hours' THEN 'its time lies more than an hour ahead of the database''s clock'
	     ` + long("kind") + long("session") + long("spec") + `
	     WHEN octet_length(data::text) > ` + fmt.Sprint(event.MaxDataBytes) + ` THEN 'its data has more than ` + fmt.Sprint(event.MaxDataBytes) + ` bytes'
	END AS problem
FROM (
    SELECT CASE ` + kinds.String() + `WHEN kind IN (` + strings.Join(known, ", ") + `) OR position('.' IN kind) > 0 OR kind = '' THEN kind ELSE ` + quote(e.table.name+".") + ` || kind END AS kind,
           at, session, spec, data, key
    FROM (
        SELECT ` + e.kind + ` AS kind, ` + e.at + ` AS at, ` + e.session + ` AS session, coalesce(` + e.spec + `, '') AS spec, coalesce(` + e.data + `, '{}') AS data, ` + e.keySQL() + ` AS key
        FROM ` + e.table.computed(from) + ` AS ` + pgx.Identifier{e.table.name}.Sanitize() + ` WHERE ` + e.where + `
    ) told
) named`
}

// mappedColumns names the result columns of the function that functionSQL
// creates.
const mappedColumns = "m (taken, kind, at, session, spec, data, key, problem)"

// functionSQL returns SQL that creates a function which maps one row of the
// table. The function does not fail: an error of an expression becomes the
// row's problem. Its argument is not of the table's row type, so that nothing
// depends on the table. Its variables have a prefix, so that no column has the
// same name.
func (e expressions) functionSQL(name string) string {
	return `CREATE OR REPLACE FUNCTION ` + name + `(specwatch_row anyelement, OUT specwatch_taken boolean, OUT specwatch_kind text, OUT specwatch_at timestamptz, OUT specwatch_session text, OUT specwatch_spec text, OUT specwatch_data jsonb, OUT specwatch_key text, OUT specwatch_problem text)
LANGUAGE plpgsql STABLE AS ` + quote(`#variable_conflict use_column
BEGIN
    SELECT m.kind, m.at, m.session, m.spec, m.data, m.key, m.problem
    INTO specwatch_kind, specwatch_at, specwatch_session, specwatch_spec, specwatch_data, specwatch_key, specwatch_problem
    FROM (`+e.mapSQL("(SELECT (specwatch_row).*)")+`) m;
    specwatch_taken := FOUND;
EXCEPTION WHEN OTHERS THEN
    specwatch_taken := true;
    specwatch_problem := left(SQLERRM, 200);
    BEGIN
        SELECT `+e.keySQL()+` INTO specwatch_key FROM `+e.table.computed("(SELECT (specwatch_row).*)")+` AS `+pgx.Identifier{e.table.name}.Sanitize()+`;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
END`)
}

// quote writes a text as an SQL literal.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// own returns the quoted name of something in Specwatch's schema. It is for SQL
// that contains expressions or names of other programs, in which store.Qualify could
// replace too much.
func own(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

// The functions of a mirror.
func mirrorFunction(schema string, id int) string {
	return own(schema, fmt.Sprintf("specwatch_mirror_%d", id))
}

func mapFunction(schema string, id int) string {
	return own(schema, fmt.Sprintf("specwatch_map_%d", id))
}

// triggerSQL returns SQL that creates the function of the trigger. Whatever
// fails in it, the program's insert succeeds, and the rows are counted as
// unmapped. A statement-level trigger maps all rows of the statement at once;
// if that fails, it maps them one by one.
func (e expressions) triggerSQL(schema string, id int) string {
	events, unmapped, number := own(schema, "events"), own(schema, "specwatch_unmapped"), strconv.Itoa(id)
	write := func(mapped, key string) string {
		return `WITH mapped AS MATERIALIZED (` + mapped + `), kept AS (
    INSERT INTO ` + events + ` (kind, at, session, spec, data, key)
    SELECT m.kind, m.at, m.session, m.spec, m.data, ` + key + `
    FROM mapped m WHERE m.problem IS NULL
)
INSERT INTO ` + unmapped + ` (mirror, rows, reason, example)
SELECT ` + number + `, count(*), m.problem, min(m.key) FROM mapped m WHERE m.problem IS NOT NULL GROUP BY m.problem`
	}
	rows := "specwatch_new"
	all := func(key string) string { return write(e.mapSQL("specwatch_new"), key) }
	each := func(key string) string {
		return "EXECUTE replace(" + quote(write("SELECT m.* FROM specwatch_new n, LATERAL "+mapFunction(schema, id)+"(ROW(n.*)::@row@) AS "+mappedColumns+" WHERE m.taken", key)) + ", '@row@', TG_RELID::regclass::text)"
	}
	if e.table.partitioned {
		rows = "(SELECT 1) n"
		all = func(key string) string { return write(e.mapSQL("(SELECT (NEW).*)"), key) }
		each = func(key string) string {
			return write("SELECT m.* FROM "+mapFunction(schema, id)+"(NEW) AS "+mappedColumns+" WHERE m.taken", key)
		}
	}
	// If a key is stored already, this is another row with the same key: the
	// table was emptied and its sequence started again. Its event gets no key.
	// Stored keys are read only after an insert has failed because of one: what
	// a SERIALIZABLE transaction reads here would conflict with the inserts of
	// all others.
	attempt := func(write func(key string) string) string {
		step := func(key string) string {
			return `
    BEGIN
        ` + write(key) + `;
        RETURN NULL;
    EXCEPTION WHEN OTHERS THEN
        specwatch_code := SQLSTATE;
        specwatch_failure := left(SQLERRM, 200);
    END;`
		}
		return step("m.key") + `
    IF specwatch_code = '23505' THEN` + step("CASE WHEN EXISTS (SELECT FROM "+events+" e WHERE e.key = m.key) THEN NULL ELSE m.key END") + `
    END IF;`
	}
	settings := "SET search_path = pg_catalog, pg_temp SET timezone = " + quote(e.zone)
	for _, setting := range pinned {
		settings += " SET " + setting.name + " = " + quote(setting.value)
	}
	return `CREATE OR REPLACE FUNCTION ` + mirrorFunction(schema, id) + `() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
` + settings + ` AS ` + quote(`#variable_conflict use_column
DECLARE
    specwatch_code text;
    specwatch_failure text;
BEGIN`+attempt(all)+attempt(each)+`
    INSERT INTO `+unmapped+` (mirror, rows, reason) SELECT `+number+`, count(*), specwatch_failure FROM `+rows+` HAVING count(*) > 0;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE LOG 'specwatch: an insert into % was not mirrored: %', TG_RELID::regclass, coalesce(specwatch_failure, SQLERRM);
    RETURN NULL;
END`)
}

// ownSchema returns the schema of the events. The user must have the rights of
// their owner. It reads only the catalog, which every user may read.
func ownSchema(ctx context.Context, s *store.Store, tx pgx.Tx) (string, error) {
	var schema, owner, user string
	var may, current bool
	err := tx.QueryRow(ctx, `
		SELECT n.nspname::text, pg_get_userbyid(c.relowner)::text, current_user::text, pg_has_role(c.relowner, 'USAGE'), EXISTS (SELECT FROM pg_class m WHERE m.relnamespace = n.oid AND m.relname = 'specwatch_mirrors')
		FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'events'
		WHERE n.nspname = coalesce(nullif($1, ''), current_schema()) AND EXISTS (SELECT FROM pg_class m WHERE m.relnamespace = n.oid AND m.relname = 'specwatch_migrations')`, s.Schema()).
		Scan(&schema, &owner, &user, &may, &current)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && !current:
		return "", store.NewProblem(store.NoTable, nil, "there is no events table of this version of Specwatch here; run: specwatch migrate, or name the schema that holds it")
	case err != nil:
		return "", err
	case !may:
		return "", store.NewProblem(store.NoRights, nil, "mirrors are made by the owner of the events table, and %s is not; run this as %s, or run as an administrator: GRANT %s TO %s",
			user, owner, pgx.Identifier{owner}.Sanitize(), pgx.Identifier{user}.Sanitize())
	}
	return schema, nil
}

// own returns an error unless the user has the rights of the table's owner.
func (t source) own(ctx context.Context, tx pgx.Tx) error {
	var user string
	var may bool
	if err := tx.QueryRow(ctx, `SELECT current_user::text, pg_has_role($1, 'USAGE')`, t.owner).Scan(&user, &may); err != nil {
		return err
	}
	if !may {
		return store.NewProblem(store.NoRights, nil, "only the owner of table %s can have it mirrored, and %s is not; run this as %s, or run as an administrator: GRANT %s TO %s",
			t, user, t.owner, pgx.Identifier{t.owner}.Sanitize(), pgx.Identifier{user}.Sanitize())
	}
	return nil
}

// Try maps the rows that the table holds and changes nothing. It
// reads the whole table.
func Try(ctx context.Context, s *store.Store, table string, m Mapping) (p Preview, err error) {
	err = s.InTransaction(ctx, func(tx pgx.Tx) error {
		p = Preview{}
		t, err := mirrorable(ctx, s, tx, table)
		if err != nil {
			return err
		}
		var e expressions
		if p.Mapping, e, err = m.complete(ctx, tx, t); err != nil {
			return err
		}
		const function = "pg_temp.specwatch_map"
		if _, err := tx.Exec(ctx, e.functionSQL(function)); err != nil {
			return err
		}
		from := fmt.Sprintf("FROM %s AS t, LATERAL %s(t) AS %s WHERE m.taken", t.rows(), function, mappedColumns)
		rows, err := tx.Query(ctx, fmt.Sprintf(`SELECT m.kind, m.at, m.session, m.spec, m.data::text %s AND m.problem IS NULL LIMIT %d`, from, previewRows))
		if err != nil {
			return err
		}
		p.Events, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e event.Event, err error) {
			var data string
			err = row.Scan(&e.Kind, &e.At, &e.Session, &e.Spec, &data)
			e.At, e.Data = e.At.UTC(), event.Readable(data)
			return e, err
		})
		if err != nil {
			return err
		}
		var text, example *string
		var n int64
		rows, err = tx.Query(ctx, fmt.Sprintf(`SELECT m.problem, count(*), min(m.key) %s GROUP BY 1 ORDER BY 2 DESC, 1`, from))
		if err != nil {
			return err
		}
		_, err = pgx.ForEachRow(rows, []any{&text, &n, &example}, func() error {
			p.Rows += n
			if text != nil && len(p.Reasons) < maxReasons {
				p.Reasons = append(p.Reasons, reasonOf(*text, n, example))
			}
			return nil
		})
		if err != nil {
			return err
		}
		return errPreviewed
	})
	if errors.Is(err, errPreviewed) {
		err = nil
	}
	return p, err
}

// errPreviewed rolls a preview back.
var errPreviewed = errors.New("previewed")

func reasonOf(text string, rows int64, example *string) Reason {
	r := Reason{Text: text, Rows: rows}
	if example != nil {
		r.Example = *example
	}
	return r
}

// mirrorable looks a table up and checks that this user may mirror it.
func mirrorable(ctx context.Context, s *store.Store, tx pgx.Tx, table string) (source, error) {
	schema, err := ownSchema(ctx, s, tx)
	if err != nil {
		return source{}, err
	}
	t, err := findSource(ctx, tx, table)
	switch {
	case err != nil:
		return t, err
	case t.schema == schema && (t.name == "events" || strings.HasPrefix(t.name, "specwatch_")):
		return t, store.NewProblem(store.NoTable, nil, "%s is Specwatch's own table", t)
	}
	return t, t.own(ctx, tx)
}

// patiently runs, in a transaction, a step that takes a lock on another
// program's table, and repeats it until it gets the lock. It holds the
// migration lock meanwhile.
func patiently(ctx context.Context, s *store.Store, told func(string), f func(tx pgx.Tx, schema string) error) error {
	return store.UntilLocked(ctx, told, func() error {
		return s.InTransaction(ctx, func(tx pgx.Tx) error {
			var locked bool
			if err := tx.QueryRow(ctx, `SELECT pg_try_advisory_xact_lock($1)`, store.MigrationLock).Scan(&locked); err != nil {
				return err
			}
			if !locked {
				return store.ErrLocked
			}
			schema, err := ownSchema(ctx, s, tx)
			if err == nil {
				err = waitShort(ctx, tx)
			}
			if err != nil {
				return err
			}
			return f(tx, schema)
		})
	})
}

// patientlyOn is patiently for a migration, which already holds the lock.
func patientlyOn(ctx context.Context, conn *pgx.Conn, told func(string), f func(pgx.Tx) error) error {
	return store.UntilLocked(ctx, told, func() error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if err := waitShort(ctx, tx); err != nil {
				return err
			}
			return f(tx)
		})
	})
}

func waitShort(ctx context.Context, tx pgx.Tx) error {
	_, err := tx.Exec(ctx, store.LockShortlySQL)
	return err
}

// Make makes each later insert into the table an event, or changes the
// mapping of its mirror. Empty fields of m stay as they are or, for a new
// mirror, are filled from the table's columns. told, unless nil, is called
// while it waits.
func Make(ctx context.Context, s *store.Store, table string, m Mapping, told func(string)) (Mirror, error) {
	var made Mirror
	err := patiently(ctx, s, told, func(tx pgx.Tx, schema string) error {
		t, err := mirrorable(ctx, s, tx, table)
		if err != nil {
			return err
		}
		all, err := mirrors(ctx, s, tx)
		if err != nil {
			return err
		}
		if made = mirrorOf(all, t); made.id == 0 {
			if slices.ContainsFunc(all, func(p placed) bool { return p.Source == made.Source || p.called == made.Source }) {
				made.called = fmt.Sprintf("%s#%d", made.Source, t.oid) // the keys of another table begin with the name
			}
			if err := freeName(ctx, tx, schema, all, made.Source); err != nil {
				return err
			}
			if all, err = mirrors(ctx, s, tx); err != nil {
				return err
			}
		}
		m, e, err := made.Mapping.with(m).complete(ctx, tx, t)
		if err != nil {
			return err
		}
		made.Mapping = m
		return install(ctx, tx, schema, &made, e, all)
	})
	return made, err
}

// Renew replaces the functions of all mirrors by those of this version.
// It returns notes about mirrors that keep their functions, because this user
// does not own the table, or because the mapping does not fit it any more. A
// migration does not fail for them.
func Renew(ctx context.Context, s *store.Store, conn *pgx.Conn, schema string, told func(string)) (notes []string, err error) {
	all, err := mirrors(ctx, s, conn)
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if !p.Active {
			continue
		}
		err := patientlyOn(ctx, conn, told, func(tx pgx.Tx) error {
			all, err := mirrors(ctx, s, tx) // the one before may have got rights
			if err != nil {
				return err
			}
			t, err := findSource(ctx, tx, p.now)
			if err == nil {
				err = t.own(ctx, tx)
			}
			if err != nil {
				return err
			}
			made := mirrorOf(all, t)
			m, e, err := made.Mapping.complete(ctx, tx, t)
			if err != nil {
				return err
			}
			made.Mapping = m
			return install(ctx, tx, schema, &made, e, all)
		})
		if ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			notes = append(notes, fmt.Sprintf("the mirror of %s keeps the functions of an earlier version: %s; once that is repaired, run: specwatch mirror %[1]s", p.now, s.Explain(err)))
		}
	}
	return notes, nil
}

// with returns the mapping with the fields that are set in the other.
func (m Mapping) with(other Mapping) Mapping {
	for _, f := range []struct{ into, from *string }{
		{&m.Kind, &other.Kind}, {&m.At, &other.At}, {&m.Session, &other.Session}, {&m.Spec, &other.Spec}, {&m.Data, &other.Data},
		{&m.Key, &other.Key}, {&m.Where, &other.Where}, {&m.TimeZone, &other.TimeZone},
	} {
		*f.into = cmp.Or(*f.from, *f.into)
	}
	if other.Kinds != nil {
		m.Kinds = other.Kinds
	}
	return m
}

// freeName makes a name available to the mirror of the table that has it now.
// Programs rename a table and create a new one in its place. The mirror of the
// renamed table gets the table's present name. A mirror whose trigger is gone
// is removed.
func freeName(ctx context.Context, tx pgx.Tx, schema string, all []placed, name string) error {
	i := slices.IndexFunc(all, func(p placed) bool { return p.Source == name })
	if i < 0 {
		return nil
	}
	p := all[i]
	if !p.Active {
		return p.remove(ctx, tx, schema, all)
	}
	if err := freeName(ctx, tx, schema, all, p.now); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, store.Qualify(schema, `UPDATE @.specwatch_mirrors SET source = $2, mapping = mapping || jsonb_build_object('called', $3::text) WHERE id = $1`), p.id, p.now, p.called)
	return err
}

// mirrorOf returns the table's mirror; its id is 0 if there is none. Source may
// be an earlier name of the table.
func mirrorOf(all []placed, t source) Mirror {
	if i := ofTable(all, t); i >= 0 {
		return all[i].Mirror
	}
	return Mirror{Source: t.String()}
}

// ofTable returns the index of the table's mirror; -1 if there is none.
func ofTable(all []placed, t source) int {
	if i := slices.IndexFunc(all, func(m placed) bool { return m.relation == t.oid }); i >= 0 {
		return i
	}
	return slices.IndexFunc(all, func(m placed) bool { return m.Source == t.String() && !m.Active })
}

// placed is a mirror and the table that has its trigger; 0: none has.
type placed struct {
	Mirror
	relation uint32
	now      string // the table's present name
	trigger  string
}

func mirrors(ctx context.Context, s *store.Store, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}) ([]placed, error) {
	rows, err := q.Query(ctx, s.SQL(`
		SELECT m.id, m.source, m.mapping::text, m.filled, coalesce(m.granted, ''), m.up_to, coalesce(t.tgrelid, 0)::oid, coalesce(t.tgname, '')::text,
		       coalesce((SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = t.tgrelid), '')
		FROM @.specwatch_mirrors m LEFT JOIN pg_trigger t ON t.tgfoid = to_regproc('@.specwatch_mirror_' || m.id) AND t.tgparentid = 0
		ORDER BY m.source`))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p placed, err error) {
		var mapping string
		if err = row.Scan(&p.id, &p.Source, &mapping, &p.Filled, &p.granted, &p.upTo, &p.relation, &p.trigger, &p.now); err == nil {
			var kept recorded
			err = json.Unmarshal([]byte(mapping), &kept)
			p.Mapping, p.called, p.rights = kept.Mapping, cmp.Or(kept.Called, p.Source), kept.Rights
			if p.granted != "" && p.rights == nil {
				p.rights = rightNames()
			}
		}
		p.Active = p.relation != 0
		return p, err
	})
}

// install creates the functions and the trigger, records the mirror, and grants
// the table's owner, as whom the functions run, only what they need.
func install(ctx context.Context, tx pgx.Tx, schema string, m *Mirror, e expressions, all []placed) error {
	t := e.table
	m.called = cmp.Or(m.called, m.Source)
	e.called = m.called
	before := *m
	steps, err := m.takeRights(ctx, tx, schema, t.owner, all)
	if err != nil {
		return err
	}
	owner := pgx.Identifier{t.owner}.Sanitize()
	if err := m.record(ctx, tx, schema); err != nil {
		return err
	}
	var create bool
	if err := tx.QueryRow(ctx, `SELECT has_schema_privilege($1, $2, 'CREATE')`, t.owner, schema).Scan(&create); err != nil {
		return err
	}
	if !create { // ALTER FUNCTION OWNER requires it of the new owner
		steps = append(steps, "GRANT CREATE ON SCHEMA "+pgx.Identifier{schema}.Sanitize()+" TO "+owner)
	}
	trigger, function := mirrorFunction(schema, m.id)+"()", mapFunction(schema, m.id)
	steps = append(steps,
		e.functionSQL(function), e.triggerSQL(schema, m.id),
		"REVOKE ALL ON FUNCTION "+function+"(anyelement), "+trigger+" FROM PUBLIC",
		"ALTER FUNCTION "+function+"(anyelement) OWNER TO "+owner,
		"ALTER FUNCTION "+trigger+" OWNER TO "+owner)
	if !create {
		steps = append(steps, "REVOKE CREATE ON SCHEMA "+pgx.Identifier{schema}.Sanitize()+" FROM "+owner)
	}
	triggers, err := m.triggerSteps(ctx, tx, schema, t)
	if err != nil {
		return err
	}
	m.Active = true
	if err := execAll(ctx, tx, append(steps, triggers...)); err != nil || before.granted == t.owner {
		return err
	}
	return revokeRights(ctx, tx, schema, before, all) // the table had another owner
}

// takeRights sets the rights that the mirror uses, and returns the statements
// that grant the missing ones to the table's owner. Each mirror that uses rights
// which a mirror was the reason for records them, so that they stay until the
// last of them is removed.
func (m *Mirror) takeRights(ctx context.Context, tx pgx.Tx, schema, owner string, all []placed) (steps []string, err error) {
	m.granted, m.rights = "", nil
	for _, p := range all {
		if p.granted == owner {
			m.rights = append(m.rights, p.rights...)
		}
	}
	for _, right := range mirrorRights(schema) {
		var has bool
		if err := tx.QueryRow(ctx, "SELECT "+right.has, owner).Scan(&has); err != nil {
			return nil, err
		}
		if !has {
			m.rights = append(m.rights, right.name)
			steps = append(steps, "GRANT "+right.sql+" TO "+pgx.Identifier{owner}.Sanitize())
		}
	}
	if len(m.rights) > 0 {
		m.granted = owner
	}
	return steps, nil
}

// triggerSteps returns the statements that give the table its trigger. It may
// have one of the other kind: the table has become a partition, or is none any
// more.
func (m *Mirror) triggerSteps(ctx context.Context, tx pgx.Tx, schema string, t source) (steps []string, err error) {
	function := mirrorFunction(schema, m.id)
	var name string
	var each bool
	err = tx.QueryRow(ctx, `SELECT tgname::text, tgtype & 1 = 1 FROM pg_trigger WHERE tgrelid = $1 AND tgfoid = to_regproc($2) AND tgparentid = 0`, t.oid, function).Scan(&name, &each)
	missing := errors.Is(err, pgx.ErrNoRows)
	if err != nil && !missing {
		return nil, err
	}
	if !missing && each != t.partitioned {
		steps = append(steps, "DROP TRIGGER "+pgx.Identifier{name}.Sanitize()+" ON "+t.quoted())
		missing = true
	}
	if missing {
		level := "REFERENCING NEW TABLE AS specwatch_new FOR EACH STATEMENT"
		if t.partitioned {
			level = "FOR EACH ROW"
		}
		steps = append(steps, fmt.Sprintf("CREATE TRIGGER %s AFTER INSERT ON %s %s EXECUTE FUNCTION %s()", pgx.Identifier{"specwatch_mirror_" + schema}.Sanitize(), t.quoted(), level, function))
	}
	return steps, nil
}

// record stores the mirror, and gives it its id if it has none.
func (m *Mirror) record(ctx context.Context, tx pgx.Tx, schema string) error {
	slices.Sort(m.rights)
	m.rights = slices.Compact(m.rights)
	kept := recorded{Mapping: m.Mapping, Rights: m.rights}
	if m.called != m.Source {
		kept.Called = m.called
	}
	mapping, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if m.id == 0 {
		return tx.QueryRow(ctx, store.Qualify(schema, `INSERT INTO @.specwatch_mirrors (id, source, mapping, granted) SELECT coalesce(max(id), 0) + 1, $1, $2, nullif($3, '') FROM @.specwatch_mirrors RETURNING id`), m.Source, string(mapping), m.granted).Scan(&m.id)
	}
	_, err = tx.Exec(ctx, store.Qualify(schema, `UPDATE @.specwatch_mirrors SET mapping = $2, granted = nullif($3, '') WHERE id = $1`), m.id, string(mapping), m.granted)
	return err
}

func execAll(ctx context.Context, tx pgx.Tx, steps []string) error {
	for _, step := range steps {
		if _, err := tx.Exec(ctx, step); err != nil {
			return err
		}
	}
	return nil
}

// right is one that the owner of a mirrored table needs.
type right struct {
	name string // as it is recorded
	sql  string // after GRANT and REVOKE
	has  string // SQL: whether the role $1 has it
}

// mirrorRights are all that the owner of a mirrored table needs.
func mirrorRights(schema string) []right {
	events, unmapped := own(schema, "events"), own(schema, "specwatch_unmapped")
	rights := []right{
		{"schema", "USAGE ON SCHEMA " + pgx.Identifier{schema}.Sanitize(), "has_schema_privilege($1, " + quote(schema) + ", 'USAGE')"},
		{"unmapped", "INSERT ON " + unmapped, "has_table_privilege($1, " + quote(unmapped) + ", 'INSERT')"},
		{"select key", "SELECT (key) ON " + events, "has_column_privilege($1, " + quote(events) + ", 'key', 'SELECT')"},
	}
	for _, column := range []string{"kind", "at", "session", "spec", "data", "key"} {
		rights = append(rights, right{"insert " + column, "INSERT (" + column + ") ON " + events, "has_column_privilege($1, " + quote(events) + ", '" + column + "', 'INSERT')"})
	}
	return rights
}

func rightNames() (names []string) {
	for _, right := range mirrorRights("") {
		names = append(names, right.name)
	}
	return names
}

// revokeRights revokes what a role was granted for a mirror that does not need
// it any more. If another mirror's function runs as the role, the rights stay,
// and that mirror becomes the reason for them: older versions recorded only the
// first one.
func revokeRights(ctx context.Context, tx pgx.Tx, schema string, m Mirror, all []placed) error {
	if m.granted == "" {
		return nil
	}
	for _, other := range all {
		var runs bool
		err := tx.QueryRow(ctx, `SELECT coalesce((SELECT pg_get_userbyid(proowner)::text = $2 FROM pg_proc WHERE oid = to_regproc($1)), false)`, mirrorFunction(schema, other.id), m.granted).Scan(&runs)
		if err != nil {
			return err
		}
		if other.id != m.id && (runs || other.granted == m.granted) {
			other.granted, other.rights = m.granted, append(other.rights, m.rights...)
			return other.record(ctx, tx, schema)
		}
	}
	var exists bool // and it does not own the events by now
	err := tx.QueryRow(ctx, store.Qualify(schema, `SELECT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = $1 AND r.oid <> (SELECT relowner FROM pg_class WHERE oid = '@.events'::regclass))`), m.granted).Scan(&exists)
	if err != nil || !exists {
		return err
	}
	var steps []string
	for _, right := range mirrorRights(schema) {
		if slices.Contains(m.rights, right.name) {
			steps = append(steps, "REVOKE "+right.sql+" FROM "+pgx.Identifier{m.granted}.Sanitize())
		}
	}
	return execAll(ctx, tx, steps)
}

// remove removes the mirror's trigger, functions, record and rights.
func (p placed) remove(ctx context.Context, tx pgx.Tx, schema string, all []placed) error {
	var steps []string
	if p.relation != 0 {
		var relation string
		if err := tx.QueryRow(ctx, `SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1`, p.relation).Scan(&relation); err != nil {
			return err
		}
		steps = append(steps, "DROP TRIGGER "+pgx.Identifier{p.trigger}.Sanitize()+" ON "+relation)
	}
	steps = append(steps,
		"DROP FUNCTION IF EXISTS "+mirrorFunction(schema, p.id)+"()", "DROP FUNCTION IF EXISTS "+mapFunction(schema, p.id)+"(anyelement)",
		fmt.Sprintf("DELETE FROM %s WHERE mirror = %d", own(schema, "specwatch_unmapped"), p.id),
		fmt.Sprintf("DELETE FROM %s WHERE id = %d", own(schema, "specwatch_mirrors"), p.id))
	if err := execAll(ctx, tx, steps); err != nil {
		return err
	}
	return revokeRights(ctx, tx, schema, p.Mirror, all)
}

// Remove ends a mirror. The events that it made stay.
func Remove(ctx context.Context, s *store.Store, table string, told func(string)) error {
	return patiently(ctx, s, told, func(tx pgx.Tx, schema string) error {
		all, err := mirrors(ctx, s, tx)
		if err != nil {
			return err
		}
		// The table may be gone, or have another name by now.
		t, missing := findSource(ctx, tx, table)
		var i int
		if missing == nil {
			i = ofTable(all, t)
		} else {
			i = slices.IndexFunc(all, func(m placed) bool { return m.Source == table || strings.HasSuffix(m.Source, "."+table) })
		}
		if i < 0 && missing != nil {
			return missing
		}
		if i < 0 {
			return store.NewProblem(store.NoTable, nil, "table %s is not mirrored; specwatch mirror lists those that are", table)
		}
		return all[i].remove(ctx, tx, schema, all)
	})
}

// List returns the mirrors with what they could not map.
func List(ctx context.Context, s *store.Store) ([]Mirror, error) {
	var found []Mirror
	err := s.InTransaction(ctx, func(tx pgx.Tx) error {
		found = nil
		if _, err := ownSchema(ctx, s, tx); err != nil {
			return err
		}
		all, err := mirrors(ctx, s, tx)
		if err != nil {
			return err
		}
		for _, p := range all {
			m := p.Mirror
			rows, err := tx.Query(ctx, s.SQL(`SELECT reason, sum(rows)::bigint, min(example) FROM @.specwatch_unmapped WHERE mirror = $1 GROUP BY 1 ORDER BY 2 DESC, 1`), m.id)
			if err != nil {
				return err
			}
			var text string
			var example *string
			var n int64
			if _, err := pgx.ForEachRow(rows, []any{&text, &n, &example}, func() error {
				m.Unmapped += n
				if len(m.Reasons) < maxReasons {
					m.Reasons = append(m.Reasons, reasonOf(text, n, example))
				}
				return nil
			}); err != nil {
				return err
			}
			found = append(found, m)
		}
		return nil
	})
	return found, err
}
