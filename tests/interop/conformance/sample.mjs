// Arguments for a tool nobody knows yet, made from its schema.

export function sample(tool, tools) {
    const properties = tool.inputSchema.properties ?? {};
    const given = {};
    for (const [name, schema] of Object.entries(properties)) {
        if (name === 'schema') {
            // The suite's schema scenarios want another tool's schema back, exactly as it was listed.
            given[name] = tools.find((other) => other.name !== tool.name).inputSchema;
        } else if (schema.type === 'number' || schema.type === 'integer') {
            given[name] = Object.keys(given).length + 2;
        } else if (schema.type === 'boolean') {
            given[name] = true;
        } else if (schema.type === 'string' || schema.type === undefined) {
            given[name] = schema.enum?.[0] ?? 'given';
        }
    }
    return given;
}
