package store

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"

	"github.com/specwatch/specwatch/pkg/event"
)

// Problem is an error of the set-up or of the current state of the server;
// nothing is wrong with the request. A person can fix it, or the caller may try
// again.
type Problem struct {
	Code   string // one of the codes below
	Detail string // what is wrong and what to do about it
	cause  error
}

// Codes of problems.
const (
	NoConnection  = "no_connection"
	NoTable       = "no_table"
	NoRights      = "no_rights"
	ReadOnly      = "read_only"
	SchemaOld     = "schema_old"
	SchemaNew     = "schema_new"
	Restored      = "restored"
	Behind        = "behind"         // a standby that has not replayed what the cursor has seen
	Busy          = "busy"           // a lock, a limit or a deadline; ask again
	Full          = "full"           // disk or memory of the server
	DatabaseError = "database_error" // any other error of PostgreSQL
)

func (p *Problem) Error() string { return p.Detail }
func (p *Problem) Unwrap() error { return p.cause }

// NewProblem returns a problem: its code, what caused it, which may be nil, and
// what is wrong and what to do about it.
func NewProblem(code string, cause error, format string, args ...any) *Problem {
	return &Problem{Code: code, Detail: fmt.Sprintf(format, args...), cause: cause}
}

// ErrNotAllowed is returned if the user may not write, or if the server is
// read-only.
var ErrNotAllowed = errors.New("this user may not write here")

// NotAllowed adds ErrNotAllowed to an error that says that the user may not
// write.
func NotAllowed(err error) error {
	var p *Problem
	if errors.As(err, &p) && (p.Code == NoRights || p.Code == ReadOnly) {
		return errors.Join(ErrNotAllowed, err)
	}
	return err
}

var errRestored = NewProblem(Restored, nil, "the events were restored from another database cluster, so their transaction ids mean nothing here; run: specwatch migrate")

var errURL = errors.New("the database URL cannot be read; it looks like postgres://user@host:5432/database?sslmode=require, with every @ : / ? # % of a password written as %40 %3A %2F %3F %23 %25")

// settingsOfFiles has what pgx says before a file that it cannot read, and the
// setting that names the file.
var settingsOfFiles = map[string]string{
	"unable to read CA file": "sslrootcert in the database URL, or PGSSLROOTCERT",
	"unable to read sslkey":  "sslkey in the database URL, or PGSSLKEY",
	"unable to read cert":    "sslcert in the database URL, or PGSSLCERT",
}

// settingErrors has what pgx says of a setting that it cannot use, and what is
// told instead: what is wrong, where it is set, and what to change.
var settingErrors = []struct{ says, told string }{
	{"unable to add CA to cert pool", "the CA file (sslrootcert in the database URL, or PGSSLROOTCERT) has no certificate; name a PEM file that begins with -----BEGIN CERTIFICATE-----"},
	{"failed to decode sslkey", "the client key (sslkey in the database URL, or PGSSLKEY) is not PEM; name a file that begins with -----BEGIN PRIVATE KEY-----"},
	{"unable to find sslpassword", "the client key (sslkey in the database URL, or PGSSLKEY) is encrypted; set its password with PGSSLPASSWORD, or name a key without one"},
	{"unable to decrypt key", "the client key (sslkey in the database URL, or PGSSLKEY) cannot be decrypted; correct its password, PGSSLPASSWORD or sslpassword in the database URL"},
	{"does not match public key", "the client certificate and the client key do not belong together; correct sslcert and sslkey in the database URL, or PGSSLCERT and PGSSLKEY"},
	{"failed to parse private key", "the client key (sslkey in the database URL, or PGSSLKEY) cannot be read; if its file begins with -----BEGIN ENCRYPTED PRIVATE KEY-----, write one without a password: openssl pkey -in KEY -out NEWKEY"},
	{"unable to load cert", "the client certificate (sslcert in the database URL, or PGSSLCERT) has no certificate; name a PEM file that begins with -----BEGIN CERTIFICATE-----"},
	{`both "sslcert" and "sslkey" are required`, "a client certificate needs its key, and a key its certificate; set both sslcert and sslkey in the database URL, or PGSSLCERT and PGSSLKEY"},
	{"sslmode is invalid", "the TLS mode (sslmode in the database URL, or PGSSLMODE) is not known; it is disable, allow, prefer, require, verify-ca or verify-full"},
	{"unable to load system certificate pool", "the CA certificates of this system cannot be read; name a PEM file with sslrootcert in the database URL, or PGSSLROOTCERT"},
	{"failed to read service file", "the file of services (PGSERVICEFILE, or .pg_service.conf in the home folder) cannot be read; correct it, or remove service from the database URL and PGSERVICE"},
	{"unable to find service", "the service that is asked for (service in the database URL, or PGSERVICE) is not in the file of services (PGSERVICEFILE, or .pg_service.conf in the home folder); correct its name, or add it"},
	{"invalid port", "the port of the database is not a number from 1 to 65535; correct it in the database URL, PGPORT or the file of services; in a password in the URL, write every @ : / ? # % as %40 %3A %2F %3F %23 %25"},
	{"could not match", "there are several ports, and not as many as hosts; name one port for all hosts, or one for each, in the database URL, or PGHOST and PGPORT"},
}

// settingNames finds the name of another setting in what pgx says of it.
var settingNames = regexp.MustCompile("`: (?:invalid |unknown |cannot parse )?(sslcertmode|connect_timeout|target_session_attrs|min_protocol_version|max_protocol_version|channel_binding|require_auth|pool_[a-z_]+|[a-z_]+_mode|[a-z_]+_capacity)\\b")

// unusable explains why the settings of a connection cannot be used. Of their
// values it repeats only the path of a file, since others may be secret.
func unusable(err error) error {
	// pgx says: cannot parse `the settings`: what is wrong
	text := err.Error()
	said := text[max(0, strings.LastIndex(text, "`: ")):]
	var path *fs.PathError
	if errors.As(err, &path) {
		for says, setting := range settingsOfFiles {
			if strings.Contains(said, says) {
				return fmt.Errorf("the file %s cannot be read (%w); correct its path (%s), or its rights", path.Path, path.Err, setting)
			}
		}
	}
	for _, known := range settingErrors {
		if strings.Contains(said, known.says) {
			return errors.New(known.told)
		}
	}
	if name := settingNames.FindStringSubmatch(said); name != nil {
		return fmt.Errorf("the setting %s of the database connection has a value that is not allowed; correct it in the database URL or in its variable that begins with PG", name[1])
	}
	return errURL
}

// explain is Store.Explain for an error whose user is not known.
func explain(err error) error {
	told := explained(err)
	if wrapped, ok := told.(asUser); ok {
		return wrapped.error
	}
	return told
}

func explained(err error) error {
	var known *Problem
	var field *event.FieldError
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.As(err, &known), errors.As(err, &field), errors.Is(err, ErrExpired):
		return err
	case errors.As(err, &connect):
		if errors.As(err, &pg) && pg.Code[:2] == "53" {
			return explainPg(err, pg)
		}
		return NewProblem(NoConnection, err, "cannot connect to PostgreSQL at %s as %s: %s; %s",
			address(connect.Config.Host, connect.Config.Port), connect.Config.User, reason(connect), advice(connect, pg))
	case errors.As(err, &pg):
		return explainPg(err, pg)
	case errors.Is(err, context.DeadlineExceeded):
		return NewProblem(Busy, err, "PostgreSQL did not answer in time; check its load and what holds locks on the events table, and ask again")
	case errors.Is(err, puddle.ErrClosedPool):
		return NewProblem(Busy, err, "the connections were closed, because this process stops or its settings changed; ask again")
	case isLost(err):
		return NewProblem(NoConnection, err, "the connection to PostgreSQL was lost; check that the server is up and can be reached")
	}
	return err
}

// asUser is an error together with the database user that got it, and the roles
// of the schema.
type asUser struct {
	error
	user  string
	roles Roles
}

func (e asUser) Unwrap() error { return e.error }

// Explain turns the errors of PostgreSQL and of the connection to it into
// *Problem or *event.FieldError, in which it names the user. context.Canceled is
// returned as it is.
func (s *Store) Explain(err error) error {
	if err == nil {
		return nil
	}
	return explain(asUser{err, s.config.ConnConfig.User, s.rolesFor(err)})
}

// userOf returns the user, "" if it is not known, and the roles of the schema.
func userOf(err error) (user string, names Roles) {
	var known asUser
	if errors.As(err, &known) {
		return known.user, known.roles
	}
	return "", defaultRoles
}

// insufficientPrivilege is PostgreSQL's code for a right that is missing.
const insufficientPrivilege = "42501"

// denied finds in an error of PostgreSQL what the user lacks a right on.
var denied = regexp.MustCompile(`^permission denied (for|to create temporary tables in) (\w+) (.+)$`)

// advice says what to change so that a connection can be made.
func advice(connect *pgconn.ConnectError, pg *pgconn.PgError) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case pg != nil && pg.Code == insufficientPrivilege: // the right CONNECT
		return "run as an administrator: GRANT CONNECT ON DATABASE " + pgx.Identifier{connect.Config.Database}.Sanitize() + " TO " + pgx.Identifier{connect.Config.User}.Sanitize()
	case pg != nil && pg.Code == "28P01":
		return "check user and password"
	case pg != nil && pg.Code == "28000" && strings.Contains(pg.Message, "client certificate"), strings.Contains(connect.Error(), "remote error: tls"):
		return "name a client certificate that the server accepts, and its key: sslcert and sslkey in the database URL, PGSSLCERT and PGSSLKEY, or those of the data source"
	case pg != nil && pg.Code == "28000":
		return "check user, database name and TLS mode, and the server's pg_hba.conf"
	case pg != nil && pg.Code == "3D000":
		return fmt.Sprintf("check the name of the database, %q", connect.Config.Database)
	case pg != nil && pg.Code[:2] == "57":
		return "try again in a moment"
	case strings.Contains(connect.Error(), "refused TLS connection"):
		return "the server does not encrypt: choose the TLS mode disable, or switch ssl on in the server"
	case errors.As(connect, &unknown):
		return "name the CA certificate that signed the server's, or choose the TLS mode require, which does not check it"
	case errors.As(connect, &name):
		return "use the host name of the certificate, or choose the TLS mode verify-ca, which does not check the name"
	}
	return "check host and port, and that the server is up"
}

// remedy says what gives the missing right: a statement for an administrator,
// or who has it. What exists in the server is not known here.
func (r Roles) remedy(message, user string) string {
	to := "the user"
	if user != "" {
		to = pgx.Identifier{user}.Sanitize()
	}
	const admin = "run as an administrator: "
	reads, writes := "GRANT "+r.Reader+" TO "+to, "GRANT "+r.Writer+" TO "+to
	missing := "; if the role does not exist, first: CREATE ROLE " + r.Reader + " NOLOGIN; CREATE ROLE " + r.Writer + " NOLOGIN, and then: specwatch migrate"
	both := admin + reads + " to let it read, " + writes + " to let it write" + missing
	if strings.HasPrefix(message, "must be owner of ") {
		return "run this as the owner"
	}
	found := denied.FindStringSubmatch(message)
	if found == nil {
		return both
	}
	kind, name := found[2], strings.Trim(found[3], `"`)
	quoted := pgx.Identifier{name}.Sanitize()
	if kind == "function" {
		name = name[strings.LastIndex(name, ".")+1:] // some errors name its schema
	}
	switch {
	case found[1] != "for":
		return admin + "GRANT TEMPORARY ON DATABASE " + quoted + " TO " + to
	case kind == "function" && name == "specwatch_roll_up", kind == "sequence":
		return admin + writes + missing
	case kind == "function" && strings.HasPrefix(name, "specwatch_"):
		return admin + reads + missing
	case kind == "function":
		return admin + "GRANT EXECUTE ON FUNCTION pg_catalog." + name + " TO " + to
	case kind == "schema":
		return both + "; or, to let it create tables and functions there: GRANT CREATE ON SCHEMA " + quoted + " TO " + to
	case kind == "database":
		return admin + "GRANT CREATE ON DATABASE " + quoted + " TO " + to
	case kind == "table" && name == "specwatch_unmapped", kind == "table" && name == "specwatch_mirrors":
		return "run this as the owner of the events table"
	case kind == "table" && name != "events" && !strings.HasPrefix(name, "specwatch_"):
		return "run this as the owner of the table, or " + admin + "GRANT SELECT ON TABLE " + quoted + " TO " + to
	}
	return both
}

// letRead says what lets the user read events. A migration whose user may not
// create roles gives them no rights in its schema before they exist.
func (r Roles) letRead(user string, exists, granted bool) string {
	grant := "GRANT " + r.Reader + " TO " + pgx.Identifier{user}.Sanitize()
	switch {
	case !exists:
		return "run as an administrator: CREATE ROLE " + r.Reader + " NOLOGIN, and then: specwatch migrate, and then as an administrator: " + grant
	case !granted:
		return "run: specwatch migrate, and then as an administrator: " + grant
	}
	return "run as an administrator: " + grant
}

// isLost reports whether an open connection, and with it the statement, was
// lost. Errors of connecting do not count.
func isLost(err error) bool {
	var pg *pgconn.PgError
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.As(err, &connect):
		return false
	case errors.As(err, &pg):
		switch pg.Code {
		case "57P01", "57P02", "57P05": // administrator, crash, idle_session_timeout
			return true
		case "26000", "42P05": // prepared statements of others: a pooler that was not detected
			return true
		}
		return pg.Code[:2] == "08"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	}
	return errors.Is(err, errClosed) || pgconn.SafeToRetry(err) || errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || strings.Contains(err.Error(), "conn closed") ||
		// Of pgxpool, which got nothing but connections that the server had ended.
		strings.Contains(err.Error(), "too many failed attempts acquiring connection")
}

// isCrowded reports whether the server has no connection left for this user.
func isCrowded(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "53300"
}

// reason is the last part of a connect error: pgx lists every address that it
// tried.
func reason(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Message
	}
	text := err.Error()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	last := lines[len(lines)-1]
	if i := strings.LastIndex(last, "): "); i >= 0 {
		last = last[i+3:]
	}
	return last
}

// explainPg explains err, which PostgreSQL answered with.
func explainPg(err error, pg *pgconn.PgError) error {
	field := func(name, detail string) error { return &event.FieldError{Field: name, Detail: detail} }
	switch pg.Code {
	case "23514": // check_violation
		switch pg.ConstraintName {
		case "specwatch_kind":
			return field("kind", "is not known to the database")
		case "specwatch_at":
			return field("at", "lies before 1970 or more than an hour ahead of the database's clock")
		case "specwatch_session", "specwatch_spec", "specwatch_key":
			return field(strings.TrimPrefix(pg.ConstraintName, "specwatch_"), fmt.Sprintf("is empty or has more than %d bytes", event.MaxNameBytes))
		case "specwatch_data":
			return field("data", fmt.Sprintf("has more than %d bytes as PostgreSQL prints it", event.MaxDataBytes))
		}
	case "23502": // not_null_violation
		return field(pg.ColumnName, "must not be null")
	case "22P02", "22P05", "22003", "54001", "54000", "22021":
		// Of what Specwatch sends, only data is first parsed by PostgreSQL:
		// it may refuse escapes, depth, or numbers out of range.
		return field("data", "is not accepted by PostgreSQL: "+pg.Message)
	case "42P01", "3F000", "42703", "42883": // undefined table, schema, column, function
		return NewProblem(NoTable, pg, "there is no events table of this version of Specwatch in this schema (%s); run: specwatch migrate", pg.Message)
	case insufficientPrivilege:
		user, names := userOf(err)
		return NewProblem(NoRights, pg, "the database user %s (%s); %s", strings.TrimSpace(user+" lacks a right"), pg.Message, names.remedy(pg.Message, user))
	case "25006": // read_only_sql_transaction
		return NewProblem(ReadOnly, pg, "this PostgreSQL server takes no writes (a standby, or default_transaction_read_only); connect to the primary")
	case "57P01", "57P02", "57P03", "57P05": // shut down, crash, starting up, idle for too long
		return NewProblem(NoConnection, pg, "PostgreSQL is not available right now: %s", pg.Message)
	case "53300": // too_many_connections
		return NewProblem(Busy, pg, "PostgreSQL has no connection left for this user (%s); ask again, or raise the limit or lower the pool's size (pool_max_conns)", pg.Message)
	case "57014", "55P03", "40001", "40P01": // cancelled, lock, conflict with recovery, deadlock
		return NewProblem(Busy, pg, "PostgreSQL could not do this now (%s); ask again", pg.Message)
	case "53100", "53200", "53400", "58030": // disk, memory, a limit of the configuration, input and output
		return NewProblem(Full, pg, "the PostgreSQL server is short of disk space or memory (%s); free some, and ask again", pg.Message)
	}
	if pg.Code[:2] == "08" || pg.Code == "26000" || pg.Code == "42P05" {
		return NewProblem(NoConnection, pg, "the connection to PostgreSQL was lost: %s", pg.Message)
	}
	return NewProblem(DatabaseError, pg, "PostgreSQL answered with an error: %s (SQLSTATE %s)", pg.Message, pg.Code)
}

// errBehind says how far a standby is behind a cursor.
func errBehind(bytes uint64, age time.Duration) error {
	return NewProblem(Behind, nil, "this standby has not replayed what the cursor has seen: it is %d bytes of write-ahead log and %s behind; ask again, or read from the primary", bytes, age.Round(time.Millisecond))
}
