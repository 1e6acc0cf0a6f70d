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

export function ConfigEditor({
  options,
  onOptionsChange,
}: DataSourcePluginOptionsEditorProps<SourceSettings, SecureSettings>) {
  const { jsonData, secureJsonFields, secureJsonData } = options;
  const json = (part: Partial<SourceSettings>) => onOptionsChange({ ...options, jsonData: { ...jsonData, ...part } });
  const secret = (name: keyof SecureSettings) => ({
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
  });
  const given = (name: keyof SecureSettings) => Boolean(secureJsonFields?.[name] || secureJsonData?.[name]);
  const mode =
    jsonData.sslmode ||
    usualTLSMode(
      options.url,
      certificates.some(([name]) => given(name))
    );
  return (
    <>
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
            value={jsonData.database ?? ''}
            onChange={(e) => json({ database: e.currentTarget.value })}
          />
        </InlineField>
        <InlineField label="Schema" labelWidth={label} tooltip="Empty: found by the user’s search_path">
          <Input
            id="specwatch-schema"
            width={width}
            placeholder="public"
            value={jsonData.schema ?? ''}
            onChange={(e) => json({ schema: e.currentTarget.value })}
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
          <SecretInput id="specwatch-password" width={width} {...secret('password')} />
        </InlineField>
      </FieldSet>
      <FieldSet label="TLS">
        <InlineField label="TLS mode" labelWidth={label}>
          <Select<TLSMode>
            inputId="specwatch-tls"
            aria-label="TLS mode"
            width={width}
            options={tlsModes}
            value={mode}
            onChange={(v) => json({ sslmode: v.value })}
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
                {...secret(name)}
              />
            </InlineField>
          ))}
      </FieldSet>
    </>
  );
}
