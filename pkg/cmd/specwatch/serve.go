package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/store"
)

const (
	envReadToken  = "SPECWATCH_READ_TOKEN" // #nosec G101 -- the name of a variable
	envWriteToken = "SPECWATCH_WRITE_TOKEN"
)

// serverConns is the size of a gateway's connection pool.
const serverConns = 8

// closeTimeout bounds closing the connections when the gateway stops.
const closeTimeout = 500 * time.Millisecond

// serveFlags are the flags of serve.
type serveFlags struct {
	listen, certFile, keyFile, profiles string
	options                             gateway.Options
}

func newServe(db *database) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the page, the HTTP API, the WebSocket and metrics",
		Long: `Serves the page at /, polling at /api/status, live events at /ws, writing at
/api/events, metrics at /metrics, health at /healthz and /readyz.

` + envReadToken + ` and ` + envWriteToken + ` protect reading and writing. Without
them the gateway only listens on addresses of this machine. Create each with:
openssl rand -hex 32

Requests must name the gateway by an IP address, by localhost, or by a host name of
--listen, --allow-host or --allow-origin. Other names are refused, to protect
against DNS rebinding.`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			return f.serve(cmd, db)
		}),
	}
	f.addTo(cmd)
	return cmd
}

func (f *serveFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "127.0.0.1:8001", "`address` to serve, host:port")
	flags.StringSliceVar(&f.options.Origins, "allow-origin", nil, "`origin` of another site whose pages may use this gateway, such as https://grafana.example; may be repeated")
	flags.StringSliceVar(&f.options.Hosts, "allow-host", nil, "host `name` by which clients reach this gateway, such as watch.example; may be repeated")
	flags.StringVar(&f.options.BasePath, "base-path", "/", "`path` below which a proxy serves this gateway, such as /watch/, whether or not the proxy strips it")
	flags.StringVar(&f.certFile, "tls-cert", "", "PEM `file` with the certificate chain, to serve HTTPS; read again when it changes")
	flags.StringVar(&f.keyFile, "tls-key", "", "PEM `file` with the private key")
	flags.StringVar(&f.profiles, "pprof", "", "`address` on loopback, such as 127.0.0.1:6060, for Go's profiles below /debug/pprof/ (default: none are served)")
}

func (f *serveFlags) serve(cmd *cobra.Command, db *database) error {
	config, err := db.config()
	if err != nil {
		return err
	}
	options, err := serverOptions(f.options).Check(f.listen)
	if err != nil {
		return wrongUse{err}
	}
	scheme, err := f.readTLS(&options)
	if err != nil {
		return err
	}
	ctx, cancel := untilSignal(cmd.Context())
	defer cancel()
	if f.profiles != "" {
		waitForProfiles, err := startProfiles(ctx, f.profiles, options.Log)
		if err != nil {
			return err
		}
		defer waitForProfiles()
		defer cancel()
	}
	at, err := net.Listen("tcp", f.listen)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w; choose another address with --listen", f.listen, err)
	}
	st, err := openStore(ctx, config, at)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s://%s%s\n", scheme, at.Addr(), strings.TrimSuffix(options.BasePath+"/", "/"))
	return serveStore(ctx, st, at, options)
}

// readTLS adds the certificate to the options, if the flags name one, and returns
// the scheme of the gateway's URL.
func (f *serveFlags) readTLS(options *gateway.Options) (scheme string, err error) {
	switch {
	case f.certFile == "" && f.keyFile == "":
		return "http", nil
	case f.certFile == "" || f.keyFile == "":
		return "", wrongUsef("TLS needs both --tls-cert and --tls-key")
	}
	if options.TLS, err = gateway.TLS(f.certFile, f.keyFile, options.Log); err != nil {
		return "", wrongUse{err}
	}
	return "https", nil
}

// serverOptions adds the options from the environment.
func serverOptions(options gateway.Options) gateway.Options {
	options.ReadToken, options.WriteToken = variable(envReadToken), variable(envWriteToken)
	options.Log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	return options
}

// serve runs a gateway on the listener until ctx ends.
func serve(ctx context.Context, config store.Config, at net.Listener, options gateway.Options) error {
	st, err := openStore(ctx, config, at)
	if err != nil {
		return err
	}
	return serveStore(ctx, st, at, options)
}

// openStore opens the store of a gateway, and closes the listener if the config is
// wrong. It does not wait for the database.
func openStore(ctx context.Context, config store.Config, at net.Listener) (*store.Store, error) {
	config.MaxConns = serverConns
	st, err := store.Open(ctx, config)
	if err != nil {
		at.Close()
		return nil, wrongUse{err}
	}
	return st, nil
}

// serveStore runs a gateway until ctx ends, and closes the store. If the database
// is away, or has no schema yet, it waits and logs the reason.
func serveStore(ctx context.Context, st *store.Store, at net.Listener, options gateway.Options) error {
	defer func() {
		closed := make(chan struct{})
		go func() { st.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(closeTimeout): // do not wait for a database that hangs
		}
	}()
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() {
		if err := st.Ready(ctx); err != nil && !errors.Is(err, context.Canceled) {
			options.Log.Warn("events cannot be read yet", "reason", strings.TrimSpace(err.Error()))
		}
		if st.Pooled() {
			options.Log.Warn(store.PoolerNote)
		}
	})
	return gateway.New(st, options).Serve(ctx, at)
}
