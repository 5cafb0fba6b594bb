/** One flat object. Keys that are not listed belong to the frontend; their values can be any JSON. */
export interface Settings {
  "ai.anthropic.baseUrl": string;
  "ai.defaultModel": string | null;
  "ai.defaultProvider": string;
  "ai.openai.baseUrl": string;
  "analytics.retentionDays": number;
  "imagegen.automatic1111.baseUrl": string;
  "imagegen.defaultProvider": ImageProvider;
  "imagegen.openai.baseUrl": string;
  language: string;
  theme: "system" | "light" | "dark";
  [key: string]: unknown;
}
