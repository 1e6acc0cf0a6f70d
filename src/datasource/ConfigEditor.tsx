import type { DataSourcePluginOptionsEditorProps, SelectableValue } from '@grafana/data';
import { FieldSet, InlineField, Input, SecretInput, SecretTextArea, Select } from '@grafana/ui';
import React from 'react';

import { type SecureSettings, type SourceSettings, type TLSMode, usualTLSMode } from './types';

const tlsModes: Array<SelectableValue<TLSMode>> = [
  { value: 'disable', label: 'disable', description: 'No TLS' },
  { value: 'require', label: 'require', description: 'TLS; the certificate is checked only against a CA given below' },
  { value: 'verify-ca', label: 'verify-ca', description: 'TLS; the certificate must come from the CA' },
  { value: 'verify-full', label: 'verify-full', description: 'TLS; and it must name the host' },
];

const certificates: Array<[keyof SecureSettings, string, string]> = [
  ['tlsCACert', 'CA certificate', '-----BEGIN CERTIFICATE-----'],
  ['tlsClientCert', 'Client certificate', '-----BEGIN CERTIFICATE-----'],
  ['tlsClientKey', 'Client key', '-----BEGIN PRIVATE KEY-----'],
];

const label = 22;
const width = 50;

type Props = DataSourcePluginOptionsEditorProps<SourceSettings, SecureSettings>;

export function ConfigEditor({ options, onOptionsChange }: Props) {
  return (
    <>
      <PostgreSQLFields options={options} onOptionsChange={onOptionsChange} />
      <TLSFields options={options} onOptionsChange={onOptionsChange} />
    </>
  );
}

function PostgreSQLFields({ options, onOptionsChange }: Props) {
  return (
    <FieldSet label="PostgreSQL">
      <InlineField label="Host" labelWidth={label} required>
        <Input
          id="specwatch-host"
          width={width}
          placeholder="localhost:5432"
          value={options.url}
          onChange={(e) => onOptionsChange({ ...options, url: e.currentTarget.value })}
        />
      </InlineField>
      <InlineField label="Database" labelWidth={label} required>
        <Input
          id="specwatch-database"
          width={width}
          placeholder="specwatch"
          value={options.jsonData.database ?? ''}
          onChange={(e) => onOptionsChange(withJsonData(options, { database: e.currentTarget.value }))}
        />
      </InlineField>
      <InlineField label="Schema" labelWidth={label} tooltip="Empty: found by the user’s search_path">
        <Input
          id="specwatch-schema"
          width={width}
          placeholder="public"
          value={options.jsonData.schema ?? ''}
          onChange={(e) => onOptionsChange(withJsonData(options, { schema: e.currentTarget.value }))}
        />
      </InlineField>
      <InlineField
        label="User"
        labelWidth={label}
        required
        tooltip="Needs the role specwatch_reader; with specwatch_writer as well, Editors can answer requests. After specwatch migrate --roles NAME these are NAME_reader and NAME_writer"
      >
        <Input
          id="specwatch-user"
          width={width}
          value={options.user}
          onChange={(e) => onOptionsChange({ ...options, user: e.currentTarget.value })}
        />
      </InlineField>
      <InlineField label="Password" labelWidth={label}>
        <SecretInput id="specwatch-password" width={width} {...secretProps('password', options, onOptionsChange)} />
      </InlineField>
    </FieldSet>
  );
}

function TLSFields({ options, onOptionsChange }: Props) {
  const mode = tlsMode(options);
  return (
    <FieldSet label="TLS">
      <InlineField label="TLS mode" labelWidth={label}>
        <Select<TLSMode>
          inputId="specwatch-tls"
          aria-label="TLS mode"
          width={width}
          options={tlsModes}
          value={mode}
          onChange={(v) => onOptionsChange(withJsonData(options, { sslmode: v.value }))}
        />
      </InlineField>
      {mode !== 'disable' &&
        certificates.map(([name, text, placeholder]) => (
          <InlineField key={name} label={text} labelWidth={label}>
            <SecretTextArea
              id={`specwatch-${name}`}
              cols={width}
              rows={4}
              placeholder={placeholder}
              {...secretProps(name, options, onOptionsChange)}
            />
          </InlineField>
        ))}
    </FieldSet>
  );
}

function tlsMode({ url, jsonData, secureJsonFields, secureJsonData }: Props['options']): TLSMode {
  const given = certificates.some(([name]) => Boolean(secureJsonFields?.[name] || secureJsonData?.[name]));
  return jsonData.sslmode || usualTLSMode(url, given);
}

const withJsonData = (options: Props['options'], part: Partial<SourceSettings>): Props['options'] => ({
  ...options,
  jsonData: { ...options.jsonData, ...part },
});

// secretProps are those of a field whose saved value Grafana does not send back.
function secretProps(name: keyof SecureSettings, options: Props['options'], onOptionsChange: Props['onOptionsChange']) {
  const { secureJsonFields, secureJsonData } = options;
  return {
    isConfigured: Boolean(secureJsonFields?.[name]),
    value: secureJsonData?.[name] ?? '',
    onChange: (e: React.FormEvent<HTMLInputElement | HTMLTextAreaElement>) =>
      onOptionsChange({ ...options, secureJsonData: { ...secureJsonData, [name]: e.currentTarget.value } }),
    onReset: () =>
      onOptionsChange({
        ...options,
        secureJsonFields: { ...secureJsonFields, [name]: false },
        secureJsonData: { ...secureJsonData, [name]: '' },
      }),
  };
}
