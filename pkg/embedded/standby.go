package embedded

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Standby starts a hot standby of s: a copy that replays the WAL of s and answers
// reads. s must run, and may be a standby itself. The standby has the password of
// s, and its settings unless config replaces them, because some settings of a
// standby must not be lower than those of its primary. `SELECT pg_promote()`
// makes it a primary.
//
// npm's packages have no pg_basebackup, and that of another version does not work.
// So the copy is made here, as PostgreSQL's manual describes it for an online
// backup.
func (s *Server) Standby(ctx context.Context, config Config) (*Server, error) {
	if config.Dir == "" {
		return nil, errors.New("embedded PostgreSQL: Config.Dir is empty: name a directory for the standby's data")
	}
	var err error
	if config.Dir, err = Place(config.Dir); err != nil {
		return nil, err
	}
	settings := maps.Clone(s.config.Settings)
	if settings == nil {
		settings = map[string]string{}
	}
	maps.Copy(settings, config.Settings)
	config.Settings = settings

	standby := &Server{config: config, install: s.install, account: s.account, password: s.password}
	if err := standby.makeDir(); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(standby.DataDir()); err == nil {
		return nil, fmt.Errorf("%s is there already: a standby starts from a fresh copy, so choose another directory", standby.DataDir())
	}
	if err := s.copyTo(ctx, standby); err != nil {
		return nil, fmt.Errorf("cannot make a standby of PostgreSQL in %s: %w", s.config.Dir, err)
	}
	if err := standby.start(ctx, config.Port); err != nil {
		return nil, err
	}
	return standby, nil
}

// copyTo makes a backup of s in the directory of the standby, and configures it as
// a standby of s.
func (s *Server) copyTo(ctx context.Context, standby *Server) (err error) {
	// The backup ends with the session that began it.
	connection, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return err
	}
	defer connection.Close(context.WithoutCancel(ctx))

	// The slot keeps the WAL from here on until the standby has received it.
	slot := "standby_" + strings.ToLower(rand.Text()[:12])
	if _, err := connection.Exec(ctx, "SELECT pg_create_physical_replication_slot($1, true)", slot); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, dropped := connection.Exec(context.WithoutCancel(ctx), "SELECT pg_drop_replication_slot($1)", slot)
			err = errors.Join(err, dropped)
		}
	}()

	begin, end := "SELECT pg_backup_start('standby', true)", "SELECT labelfile FROM pg_backup_stop(false)"
	if major, _ := strconv.Atoi(s.install.major); major < 15 {
		begin, end = "SELECT pg_start_backup('standby', true, false)", "SELECT labelfile FROM pg_stop_backup(false, false)"
	}
	if _, err := connection.Exec(ctx, begin); err != nil {
		return err
	}
	partial := standby.DataDir() + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	if err := copyCluster(ctx, partial, s.DataDir()); err != nil {
		return err
	}
	var label string
	if err := connection.QueryRow(ctx, end).Scan(&label); err != nil {
		return err
	}

	if err := s.configureStandby(partial, slot, label); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(standby.config.Dir, "password"), []byte(s.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(partial, standby.DataDir()); err != nil {
		return err
	}
	return s.account.own(standby.config.Dir)
}

// configureStandby writes the files with which a server over this copy starts as
// a standby of s.
func (s *Server) configureStandby(partial, slot, label string) error {
	s.mu.Lock()
	port := s.port
	s.mu.Unlock()
	// The password goes into a file, not among the server's arguments, which every
	// user of the machine may read. Neither it nor the rest contains a quote.
	conninfo := fmt.Sprintf("primary_conninfo = 'host=127.0.0.1 port=%d user=%s password=%s sslmode=disable'\nprimary_slot_name = '%s'\n", port, User, s.password, slot)
	for name, text := range map[string]string{
		"backup_label":         label,
		"standby.signal":       "",
		"postgresql.auto.conf": conninfo,
	} {
		if err := os.WriteFile(filepath.Join(partial, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// remade are the directories whose content is not copied: a server makes it again
// when it starts, or receives it from its primary (pg_wal). A copied pg_replslot
// would make it keep WAL for the standbys of its primary.
var remade = map[string]bool{
	"pg_dynshmem": true, "pg_notify": true, "pg_replslot": true, "pg_serial": true,
	"pg_snapshots": true, "pg_stat_tmp": true, "pg_subtrans": true, "pg_wal": true,
}

// copyCluster copies a data directory in use. Files may grow, shrink and be removed
// meanwhile: the replay of the WAL since the backup began repairs the copy.
func copyCluster(ctx context.Context, to, from string) error {
	// This file tells where the backup of a standby ends, so it is copied after
	// all others.
	const control = "global/pg_control"
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case entry.IsDir():
			if err := os.Mkdir(target, 0o700); err != nil {
				return err
			}
			if remade[filepath.ToSlash(name)] {
				return fs.SkipDir
			}
			return nil
		case filepath.ToSlash(name) == control:
			return nil
		case name == "postmaster.pid" || name == "postmaster.opts" || strings.HasPrefix(entry.Name(), "pgsql_tmp"):
			return nil
		case !entry.Type().IsRegular():
			return fmt.Errorf("%s is no regular file: clusters with tablespaces elsewhere are not copied", path)
		}
		return copyFile(target, path)
	})
	if err != nil {
		return err
	}
	return copyFile(filepath.Join(to, control), filepath.Join(from, control))
}

func copyFile(to, from string) error {
	source, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(target, source)
	return errors.Join(err, target.Close())
}
