//go:build linux

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/specwatch/specwatch/pkg/embedded"
)

// The outbox of Centrifugo's PostgreSQL consumer: its table, and beside it the
// trigger of its documentation that wakes the consumer. A publication carries
// an event as Specwatch sends one.
const outboxTable = `
	CREATE TABLE IF NOT EXISTS centrifugo_outbox (id bigserial PRIMARY KEY, method text NOT NULL, payload jsonb NOT NULL, partition integer NOT NULL DEFAULT 0, created_at timestamptz NOT NULL DEFAULT now());
	CREATE OR REPLACE FUNCTION outbox_notify() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_notify('centrifugo_partition_change', '0'); RETURN NULL; END $$;
	DROP TRIGGER IF EXISTS outbox_notify ON centrifugo_outbox;
	CREATE TRIGGER outbox_notify AFTER INSERT ON centrifugo_outbox FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify();
	CREATE TABLE IF NOT EXISTS outbox_events (kind text, session text, spec text);
	CREATE OR REPLACE FUNCTION outbox_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO centrifugo_outbox (method, payload) VALUES ('publish', jsonb_build_object('channel', 'events', 'data',
			jsonb_build_object('id', 0, 'kind', NEW.kind, 'session', NEW.session, 'spec', NEW.spec, 'data', '{}'::jsonb)));
		RETURN NULL;
	END $$;
	DROP TRIGGER IF EXISTS outbox_insert ON outbox_events;
	CREATE TRIGGER outbox_insert BEFORE INSERT ON outbox_events FOR EACH ROW EXECUTE FUNCTION outbox_insert();`

const outboxPour = `INSERT INTO centrifugo_outbox (method, payload)
	SELECT 'publish', jsonb_build_object('channel', 'events', 'data', ` + outboxEvent + `) FROM generate_series(1, $1::int) n`

// jsonb orders keys by length, so "id" comes first, as the client expects.
const outboxEvent = `jsonb_build_object('id', n, 'kind', 'session_heartbeat', 'session', 'bench', 'spec', n::text, 'data', '{"silentSeconds":1}'::jsonb)`

// outbox starts Centrifugo over a table of its own in the database.
func (w *world) outbox(ctx context.Context, database string) (*contender, error) {
	if err := exec1(ctx, database, outboxTable); err != nil {
		return nil, err
	}
	port, err := embedded.FreePort()
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{
		"http_server": map[string]any{"address": "127.0.0.1", "port": port},
		"health":      map[string]any{"enabled": true},
		"client":      map[string]any{"insecure": true, "allowed_origins": []string{"*"}, "queue_max_size": 64 << 20},
		"channel":     map[string]any{"without_namespace": map[string]any{"allow_subscribe_for_client": true, "allow_subscribe_for_anonymous": true}},
		"consumers": []any{map[string]any{"enabled": true, "name": "bench", "type": "postgresql", "postgresql": map[string]any{
			"dsn": database, "outbox_table_name": "centrifugo_outbox", "num_partitions": 1, "partition_select_limit": 1_000,
			"partition_poll_interval": "300ms", "partition_notification_channel": "centrifugo_partition_change",
		}}},
	})
	if err != nil {
		return nil, err
	}
	file := filepath.Join(w.folder, "centrifugo.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return nil, err
	}
	address := "http://127.0.0.1:" + strconv.Itoa(port)
	if _, err := w.start(ctx, address, nil, w.Centrifugo, "--config", file); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(address + "/health")
		if err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return nil, fmt.Errorf("the Centrifugo server does not start: %w", err)
		}
	}
	return &contender{name: "Centrifugo's outbox consumer", table: "outbox_events", address: address + "/connection/websocket",
		say: []string{`{"id":1,"connect":{}}`, `{"id":2,"subscribe":{"channel":"events"}}`}}, nil
}
